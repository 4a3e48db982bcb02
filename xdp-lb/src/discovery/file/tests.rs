use std::fs;

use super::*;
use crate::model::Source;

struct Followed {
    directory: tempfile::TempDir,
    updates: mpsc::Receiver<Update>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Followed {
    fn start(name: &str, content: Option<&str>) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(name);
        if let Some(content) = content {
            fs::write(&path, content).expect("written");
        }
        let (sender, updates) = mpsc::channel(8);
        let discovery = Discovery::new(Source::File(path.clone()));
        let service = Service::new("web", "192.0.2.10:80".parse().expect("an address"));
        let task = tokio::spawn(follow(service, discovery, path, sender));
        Self { directory, updates, task }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Well before the next poll.
    async fn next(&mut self) -> Result<Vec<String>, String> {
        let update = timeout(POLL / 2, self.updates.recv()).await.expect("in time").expect("it goes on");
        update.result.map(|found| found.backends.iter().map(|it| it.address.to_string()).collect())
    }

    async fn is_quiet(&mut self) -> bool {
        timeout(Duration::from_millis(300), self.updates.recv()).await.is_err()
    }
}

fn list(hosts: &[u8]) -> String {
    let hosts: Vec<_> =
        hosts.iter().map(|host| format!("{{\"address\": \"198.51.100.{host}:80\"}}")).collect();
    format!("{{\"backends\": [{}]}}", hosts.join(",\n"))
}

#[tokio::test]
async fn a_file_is_followed_through_renames_bad_content_its_end_and_its_return() {
    let mut followed = Followed::start("web.json", Some(&list(&[1])));
    assert_eq!(followed.next().await, Ok(vec!["198.51.100.1:80".into()]));

    fs::write(followed.path("new"), list(&[1, 2])).expect("written");
    fs::rename(followed.path("new"), followed.path("web.json")).expect("renamed");
    assert_eq!(followed.next().await, Ok(vec!["198.51.100.1:80".into(), "198.51.100.2:80".into()]));
    // The first file's watch reports the rename again. The same content is not an update.
    fs::write(followed.path("web.json"), list(&[1, 2])).expect("written");
    assert!(followed.is_quiet().await);

    fs::write(followed.path("web.json"), &list(&[1, 3])[..30]).expect("written");
    let why = followed.next().await.expect_err("torn");
    assert!(why.contains("web.json: line 1") && why.contains("is truncated"), "{why}");
    fs::remove_file(followed.path("web.json")).expect("removed");
    let why = followed.next().await.expect_err("gone");
    assert!(why.contains("cannot read it"), "{why}");
    fs::write(followed.path("web.json"), list(&[3])).expect("written");
    // It may have been seen empty while it was being written.
    let mut found = followed.next().await;
    if found.is_err() {
        found = followed.next().await;
    }
    assert_eq!(found, Ok(vec!["198.51.100.3:80".into()]));
}

#[tokio::test]
async fn a_link_into_a_directory_that_is_replaced_is_followed() {
    // Like Kubernetes: web.json -> ..data/web.json, and ..data -> a directory.
    let mut followed = Followed::start("web.json", None);
    assert!(followed.next().await.is_err());
    let link = |to: &str, from: PathBuf| std::os::unix::fs::symlink(to, from).expect("linked");
    for (version, host) in [("v1", 1), ("v2", 2)] {
        fs::create_dir(followed.path(version)).expect("made");
        fs::write(followed.path(version).join("web.json"), list(&[host])).expect("written");
    }
    link("v1", followed.path("..data"));
    link("..data/web.json", followed.path("web.json"));
    assert_eq!(followed.next().await, Ok(vec!["198.51.100.1:80".into()]));
    link("v2", followed.path("..new"));
    fs::rename(followed.path("..new"), followed.path("..data")).expect("renamed");
    assert_eq!(followed.next().await, Ok(vec!["198.51.100.2:80".into()]));
}

#[tokio::test]
async fn a_pipe_or_a_directory_is_no_file_to_wait_for() {
    let mut followed = Followed::start("web.json", None);
    assert!(followed.next().await.is_err());
    fs::create_dir(followed.path("web.json")).expect("made");
    let why = followed.next().await.expect_err("refused");
    assert!(why.contains("it is a directory"), "{why}");
}
