//! The API held against its own OpenAPI document by Schemathesis, which makes up requests, good and bad, and looks at the
//! answers.

use std::io::Write;

use xdp_lb_tests::{Authority, Daemon, Network, Validity, paths};

/// Operations that are not called: they end the daemon, or answer only when packets come.
const LEFT_OUT: [&str; 4] = ["trace", "unload", "upgrade", "watch"];

const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,\
                      response_headers_conformance,negative_data_rejection,unsupported_method,missing_required_header";

const SERVICES: &str = "[[service]]\nname = \"web\"\nvip = \"192.0.2.10:80\"\nhealth_check = { type = \"none\" }\n\
                        backend = [{ address = \"198.51.100.11:8080\" }, { address = \"198.51.100.12:8080\" }]\n\
                        [[service]]\nname = \"dns\"\nvip = \"[2001:db8:1::10]:53\"\nprotocol = \"udp\"\nmode = \"nat\"\n\
                        backend = [{ address = \"[2001:db8:2::11]:53\" }]\n";

#[test]
fn the_api_answers_as_its_openapi_document_says_to_any_request() {
    let Some(schemathesis) = paths::schemathesis() else {
        // Not by println, which libtest keeps to itself where a test passes.
        let words = "SKIPPED: the API is not held against its OpenAPI document, since there is no Schemathesis; `cargo xtask \
                     setup` installs it, and says why it cannot";
        writeln!(std::io::stderr(), "{words}").unwrap();
        return;
    };
    let network = Network::new("schema", 1).unwrap();
    let dir = network.lb.dir();
    let authority = Authority::new("Lab").unwrap();
    let ca = authority.write(&dir).unwrap();
    let (certificate, key) =
        authority.issue(&["192.0.2.1"], Validity::Now).unwrap().write(&dir, "server").unwrap();
    let (alice, alices_key) =
        authority.issue_client("alice", &[], Validity::Now).unwrap().write(&dir, "alice").unwrap();
    let config = format!(
        "api.listen = \"192.0.2.1:7443\"\napi.certificate = {certificate:?}\napi.key = {key:?}\napi.client_ca = {ca:?}\n\
         api.admin_certificates = [\"alice\"]\n{SERVICES}"
    );
    let daemon = Daemon::start(&network.lb, &["eth0", "eth1"], &config).unwrap();

    let mut command = network.client.command("timeout");
    command.arg("100").arg(schemathesis);
    command.args(["run", "https://192.0.2.1:7443/v1/openapi.json", "--checks", CHECKS]);
    command.args([
        "--phases",
        "examples,coverage,fuzzing,stateful",
        "--max-examples",
        "20",
        "--seed",
        "4711",
    ]);
    command.args(["--generation-database", "none", "--no-color", "--continue-on-failure"]);
    for operation in LEFT_OUT {
        command.args(["--exclude-operation-id", operation]);
    }
    command
        .arg("--tls-verify")
        .arg(&ca)
        .arg("--request-cert")
        .arg(&alice)
        .arg("--request-cert-key")
        .arg(&alices_key);
    let output = command.current_dir(&dir).env("HOME", &dir).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(daemon.cli(&["status"]).is_ok());
    println!("{said}");
}
