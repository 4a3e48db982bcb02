//! Web servers that speak TLS.

use std::fs;
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::certificates::Identity;
use crate::host::Host;
use crate::process::Process;
use crate::{paths, wait};

/// A site on a port of its own.
pub struct TlsSite<'a> {
    /// Its port.
    pub port: u16,
    /// Its name: a client that asks for another one is refused. `None`: it takes any.
    pub name: Option<&'a str>,
    /// Its certificate.
    pub identity: &'a Identity,
    /// The versions that it speaks, as nginx has them: `TLSv1.2 TLSv1.3`.
    pub protocols: &'a str,
}

/// nginx with some sites over TLS, on all of a host's IPv4 addresses; each answers `/` with 200. Stopped when dropped.
pub struct TlsSites {
    _process: Process,
}

impl TlsSites {
    /// Starts it, and waits until it accepts connections.
    pub fn start(host: &Host, sites: &[TlsSite]) -> Result<Self> {
        let dir = host.dir().join("nginx-tls");
        fs::create_dir_all(&dir).context("cannot make nginx's folder")?;
        let mut servers = String::new();
        for TlsSite { port, name, identity, protocols } in sites {
            let file = |kind| dir.join(format!("{port}.{kind}"));
            fs::write(file("crt"), &identity.certificate).context("cannot write a certificate")?;
            fs::write(file("key"), &identity.key).context("cannot write a key")?;
            let tls = format!(
                "ssl_certificate {}; ssl_certificate_key {}; ssl_protocols {protocols};",
                file("crt").display(),
                file("key").display()
            );
            let answer = "location / { return 200 \"fine\\n\"; }";
            servers += &match name {
                Some(name) => format!(
                    "server {{ listen {port} ssl default_server; {tls} ssl_reject_handshake on; }}\n\
                     server {{ listen {port} ssl; server_name {name}; {tls} {answer} }}\n"
                ),
                None => format!("server {{ listen {port} ssl; {tls} {answer} }}\n"),
            };
        }
        let config = dir.join("nginx.conf");
        let shown = dir.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path \"{shown}/{kind}\";\n"))
            .concat();
        let text = format!(
            "daemon off;\nmaster_process off;\npid \"{shown}/pid\";\nlock_file \"{shown}/lock\";\nevents {{}}\n\
             http {{\naccess_log off;\n{temporary}{servers}}}\n"
        );
        fs::write(&config, text).context("cannot write nginx's config")?;
        let program = paths::program("nginx").context("nginx is not installed: run `cargo xtask setup`")?;
        let mut command = host.command(program);
        command.arg("-p").arg(&dir).arg("-c").arg(&config).args(["-e", "stderr"]);
        let mut process = host.spawn_command("nginx-tls", command)?;
        for site in sites {
            wait::until(&format!("nginx on {}", host.name()), Duration::from_secs(30), || {
                if process.exited()?.is_some() {
                    bail!("nginx on {} ended: {}", host.name(), process.log().trim());
                }
                host.enter(|| TcpStream::connect(("127.0.0.1", site.port)).is_ok())
            })?;
        }
        Ok(Self { _process: process })
    }
}
