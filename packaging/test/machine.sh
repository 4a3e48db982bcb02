#!/bin/bash
# Runs on a clean Debian that `cargo xtask test --packages` boots, with the packages in /root and the guide's first page in
# /root/guide: installs, uses, upgrades under load, removes and purges, and runs the image. Each line with PASSED is one thing
# that was shown; the first failure ends it.
set -Eeuo pipefail
cd /root

passed() { echo "PASSED after $(cut -d. -f1 /proc/uptime) s: $*"; }
failed() { echo "FAILED: $*"; systemctl status xdp-lb --no-pager -l || true; journalctl -u xdp-lb --no-pager | tail -50; exit 1; }
trap 'failed "line $LINENO: $BASH_COMMAND"' ERR

on() { ip netns exec "$1" "${@:2}"; }

# The guide's network: this machine is the load balancer; the others are network namespaces.
link() { # NAMESPACE DEVICE OUR-DEVICE: what arrives from an XDP program is received by NAPI, which GRO switches on
    ip link add "$3" type veth peer name "$2" netns "$1"
    ip link set "$3" up
    on "$1" ip link set "$2" up
    ethtool -K "$3" tx off >/dev/null
    on "$1" ethtool -K "$2" tx off gro off >/dev/null
    on "$1" ethtool -K "$2" gro on >/dev/null
}

network() {
    local number
    ip netns add client
    ip netns add switch
    on client ip link set lo up
    link client eth0 eth0
    ip address add 192.0.2.1/24 dev eth0
    on client ip address add 192.0.2.100/24 dev eth0
    on switch ip link add bridge type bridge
    on switch ip link set bridge up
    link switch lb eth1
    on switch ip link set lb master bridge
    ip address add 198.51.100.2/24 dev eth1
    for number in 1 2 3; do
        ip netns add "backend-$number"
        on "backend-$number" ip link set lo up
        on switch ip link add "backend-$number" type veth peer name eth0 netns "backend-$number"
        on switch ip link set "backend-$number" up master bridge
        on "backend-$number" ip link set eth0 up
        on "backend-$number" ethtool -K eth0 tx off >/dev/null
        on "backend-$number" ip address add "198.51.100.1$number/24" dev eth0
        on "backend-$number" nginx -c /root/nginx.conf -g "pid /run/nginx-$number.pid;"
    done
}

servers() {
    mkdir -p /srv/www
    echo 'a page' >/srv/www/index.html
    echo 'well' >/srv/www/healthz
    head --bytes 40M /dev/urandom >/srv/www/large
    cat >/root/nginx.conf <<'CONFIG'

events {}
http {
    access_log off;
    error_log /dev/null;
    server { listen 8080; root /srv/www; }
}
CONFIG
}

# The guide's first page, block by block. `stop` is the place at which the page removes the package.
first_page() {
    local block
    for block in guide/*; do
        echo "--- $block"
        case $block in
        *.client.sh) on client bash -euo pipefail "$block" ;;
        *.remove.sh) return ;;
        *.sh) bash -euo pipefail "$block" ;;
        *.toml) cp "$block" /etc/xdp-lb/config.toml ;;
        esac
    done
}

attached() { ip -details link show dev eth0 | grep -q 'prog/xdp'; }

servers
network
passed "the network"

begin=$(date +%s)
first_page
took=$(($(date +%s) - begin))
[ "$took" -lt 600 ] || failed "the first page took $took s"
passed "the guide's first page, in $took s"

test -f /usr/share/man/man8/xdp-lb-backend-drain.8.gz
test -f /usr/share/man/man5/xdp-lb.toml.5.gz
test -f /usr/share/bash-completion/completions/xdp-lb
systemd-analyze security xdp-lb.service --no-pager | tail -1

# An upgrade while a long download and many short ones go on. The new daemon is another process.
on client curl --silent --fail --limit-rate 500k --output /tmp/large http://192.0.2.10/large &
download=$!
(
    while [ ! -e /tmp/enough ]; do
        on client curl --silent --fail --max-time 20 --output /dev/null http://192.0.2.10/ || echo failure
    done >/tmp/failures
) &
before=$(systemctl show --property MainPID --value xdp-lb)
apt-get install --yes ./next/xdp-lb_*.deb
after=$(systemctl show --property MainPID --value xdp-lb)
[ "$before" != "$after" ] || failed "the daemon is still the earlier one"
readlink "/proc/$after/exe" | grep -qx /usr/sbin/xdp-lb
systemctl is-active --quiet xdp-lb
grep -q 198.51.100.13:8080 /etc/xdp-lb/config.toml
wait "$download"
touch /tmp/enough
wait
cmp /tmp/large /srv/www/large
[ ! -s /tmp/failures ] || failed "$(wc -l </tmp/failures) requests failed during the upgrade"
passed "an upgrade under load"

attached
bash -euo pipefail guide/*.remove.sh 2>&1 | tee /tmp/removed
grep -q 'stops forwarding' /tmp/removed
! attached
! ip address show dev eth0 | grep -q 192.0.2.10
! systemctl is-active --quiet xdp-lb
test -e /var/lib/xdp-lb/state.json -a -e /etc/xdp-lb/config.toml
passed "the removal unloads, says so, and leaves state and config"

apt-get purge --yes xdp-lb
! test -e /var/lib/xdp-lb -o -e /etc/xdp-lb
passed "the purge takes them away"

# The image, with its five capabilities, read-only.
mkdir -p /etc/xdp-lb /var/lib/xdp-lb /run/xdp-lb
cp guide/*.toml /etc/xdp-lb/config.toml
runc run --bundle /root/image --detach xdp-lb </dev/null >/tmp/image.log 2>&1
for _ in $(seq 60); do
    on client curl --silent --fail --max-time 5 http://192.0.2.10/ && break
    sleep 1
done | grep -q 'a page' || failed "the image does not forward: $(cat /tmp/image.log)"
# CAP_BPF, CAP_PERFMON, CAP_NET_RAW, CAP_NET_ADMIN, and CAP_CHOWN where groups need it: nothing else can be gained.
grep -qE '^CapBnd:[[:space:]]0+c00000300[01]$' "/proc/$(runc state xdp-lb | sed -n 's/.*"pid": \([0-9]*\),/\1/p')/status"
runc exec xdp-lb /usr/sbin/xdp-lb status
runc kill xdp-lb KILL
on client curl --silent --fail --max-time 5 http://192.0.2.10/ >/dev/null
passed "the image runs with its capabilities, and forwarding outlives it"

echo "ALL PASSED"
