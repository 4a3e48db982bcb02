//! An HTTP server.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::files::big_file;
use crate::host::Host;
use crate::process::Process;
use crate::{paths, wait};

/// nginx on all of a host's addresses, v4 and v6. Stopped when dropped.
///
/// Every answer names the host in the header `X-Backend`.
///
/// | path | answer |
/// |---|---|
/// | `/` | the host's name and a line feed |
/// | `/healthz` | 200 while [`Nginx::set_healthy`] says so, as it does at first, else 503 |
/// | `/big` | [`big_file`], 100 MB |
/// | `/peer` | the client's address, as the host sees it, and a line feed |
/// | `/probe` | 403, but 200 to a request with the header `X-Probe: let me in` |
/// | `/upload/NAME` | takes a PUT; see [`Nginx::uploaded`] |
pub struct Nginx {
    host: Host,
    port: u16,
    process: Option<Process>,
}

impl Nginx {
    /// Starts it, and waits until it accepts connections.
    pub fn start(host: &Host, port: u16) -> Result<Self> {
        let mut nginx = Self { host: host.clone(), port, process: None };
        nginx.restart()?;
        Ok(nginx)
    }

    /// Starts it again after [`Nginx::stop`].
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        fs::create_dir_all(self.dir()).context("cannot make nginx's folder")?;
        self.set_healthy(true)?;
        let config = self.dir().join("nginx.conf");
        fs::write(&config, self.config()?).context("cannot write nginx's config")?;
        let program = paths::program("nginx").context("nginx is not installed: run `cargo xtask setup`")?;
        let mut command = self.host.command(program);
        command.arg("-p").arg(self.dir()).arg("-c").arg(&config).args(["-e", "stderr"]);
        let mut process = self.host.spawn_command(&format!("nginx-{}", self.port), command)?;

        let address = ("127.0.0.1", self.port);
        wait::until(&format!("nginx on {}", self.host.name()), Duration::from_secs(30), || {
            if process.exited()?.is_some() {
                bail!("nginx on {} ended: {}", self.host.name(), process.log().trim());
            }
            self.host.enter(|| TcpStream::connect(address).is_ok())
        })?;
        self.process = Some(process);
        Ok(())
    }

    /// Kills it: the host answers new connections with a reset.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Whether `/healthz` answers 200, or 503.
    pub fn set_healthy(&self, healthy: bool) -> Result<()> {
        let file = self.dir().join("healthz");
        if healthy {
            return fs::write(&file, "ok\n").context("cannot write healthz");
        }
        fs::remove_file(&file).context("cannot remove healthz")
    }

    /// The access log: one line a request.
    pub fn access_log(&self) -> String {
        fs::read_to_string(self.dir().join("access.log")).unwrap_or_default()
    }

    /// The file that a PUT to `/upload/NAME` made.
    pub fn uploaded(&self, name: &str) -> PathBuf {
        self.dir().join("upload").join(name)
    }

    fn dir(&self) -> PathBuf {
        self.host.dir().join(format!("nginx-{}", self.port))
    }

    fn config(&self) -> Result<String> {
        let dir = self.dir();
        let (dir, name, port, big) = (dir.display(), self.host.name(), self.port, big_file()?);
        Ok(format!(
            r#"daemon off;
master_process off;
pid "{dir}/nginx.pid";
lock_file "{dir}/lock";
events {{ worker_connections 4096; }}
http {{
    log_format seen '$remote_addr:$remote_port $request $status $body_bytes_sent';
    access_log "{dir}/access.log" seen;
    client_body_temp_path "{dir}/body";
    proxy_temp_path "{dir}/proxy";
    fastcgi_temp_path "{dir}/fastcgi";
    uwsgi_temp_path "{dir}/uwsgi";
    scgi_temp_path "{dir}/scgi";
    default_type text/plain;
    server {{
        listen 0.0.0.0:{port} backlog=4096;
        listen [::]:{port} ipv6only=on backlog=4096;
        add_header X-Backend {name};
        location / {{ return 200 "{name}\n"; }}
        location = /healthz {{ access_log off; root "{dir}"; try_files /healthz =503; }}
        location = /big {{ alias "{big}"; }}
        location = /peer {{ return 200 "$remote_addr\n"; }}
        location = /probe {{ if ($http_x_probe != "let me in") {{ return 403; }} return 200 "in\n"; }}
        location /upload/ {{ root "{dir}"; dav_methods PUT; create_full_put_path on; client_max_body_size 1g; }}
    }}
}}
"#,
            big = big.display()
        ))
    }
}
