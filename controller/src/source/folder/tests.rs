//! Stories of a real folder.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);

struct Folder {
    root: PathBuf,
}

impl Folder {
    fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("kthena-folder-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root).unwrap();
        Self { root }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn watch(&self) -> FolderSource {
        FolderSource::start(FolderConfig {
            // Far away: only notice of the change can be in time.
            rescan: Duration::from_secs(3600),
            ..FolderConfig::new(&self.root)
        })
        .unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

fn pod(name: &str) -> String {
    format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n")
}

async fn next(source: &mut FolderSource) -> Vec<String> {
    let batch = tokio::time::timeout(PATIENCE, source.events.recv())
        .await
        .unwrap()
        .unwrap();
    batch
        .iter()
        .map(|event| match event {
            Event::Apply(object, origin) => format!("+{} {}", object.key().name, origin.place),
            Event::Delete(key) => format!("-{}", key.name),
            Event::Problems(problems) => format!("!{}", problems.len()),
            Event::Synced => "synced".into(),
        })
        .collect()
}

#[tokio::test]
async fn writes_renames_and_deletions_are_told() {
    let folder = Folder::new("writes");
    folder.write("a.yaml", &pod("a"));
    folder.write(
        "deeper/b.json",
        "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"b\"}}",
    );
    folder.write("notes.txt", "no manifest");
    folder.write(".hidden.yaml", &pod("hidden"));
    let mut source = folder.watch();
    assert_eq!(next(&mut source).await, ["+a a.yaml:1", "+b deeper/b.json:1", "synced"]);

    folder.write("new/c.yml", &pod("c"));
    assert_eq!(next(&mut source).await, ["+c new/c.yml:1"]);
    folder.write("tmp", &pod("d"));
    fs::rename(folder.root.join("tmp"), folder.root.join("a.yaml")).unwrap();
    assert_eq!(next(&mut source).await, ["-a", "+d a.yaml:1"]);
    fs::remove_file(folder.root.join("a.yaml")).unwrap();
    assert_eq!(next(&mut source).await, ["-d"]);
}

#[tokio::test]
async fn the_link_swap_of_a_mounted_config_map_is_one_change() {
    let folder = Folder::new("swap");
    let swap = |version: &str| {
        let link = folder.root.join("..data_tmp");
        symlink(version, &link).unwrap();
        fs::rename(&link, folder.root.join("..data")).unwrap();
    };
    folder.write("..v1/m.yaml", &pod("old"));
    swap("..v1");
    symlink("..data/m.yaml", folder.root.join("m.yaml")).unwrap();
    let mut source = folder.watch();
    assert_eq!(next(&mut source).await, ["+old m.yaml:1", "synced"]);
    folder.write("..v2/m.yaml", &pod("new"));
    swap("..v2");
    assert_eq!(next(&mut source).await, ["-old", "+new m.yaml:1"]);
}

#[tokio::test]
async fn what_the_system_does_not_report_is_found_by_the_next_look() {
    let folder = Folder::new("rescan");
    let elsewhere = Folder::new("rescan-target");
    elsewhere.write("x", &pod("a"));
    symlink(elsewhere.root.join("x"), folder.root.join("a.yaml")).unwrap();
    let mut source = FolderSource::start(FolderConfig {
        rescan: Duration::from_millis(20),
        ..FolderConfig::new(&folder.root)
    })
    .unwrap();
    assert_eq!(next(&mut source).await, ["+a a.yaml:1", "synced"]);
    elsewhere.write("x", &pod("b"));
    assert_eq!(next(&mut source).await, ["-a", "+b a.yaml:1"]);
}

#[tokio::test]
async fn a_folder_put_in_the_place_of_another_is_watched_in_turn() {
    let folder = Folder::new("replaced");
    folder.write("root/a.yaml", &pod("a"));
    let root = folder.root.join("root");
    let mut source = FolderSource::start(FolderConfig {
        rescan: Duration::from_millis(50),
        ..FolderConfig::new(&root)
    })
    .unwrap();
    assert_eq!(next(&mut source).await, ["+a a.yaml:1", "synced"]);
    fs::rename(&root, folder.root.join("away")).unwrap();
    assert_eq!(next(&mut source).await, ["!1"]);
    folder.write("root/b.yaml", &pod("b"));
    assert_eq!(next(&mut source).await, ["-a", "+b b.yaml:1", "!0"]);
    folder.write("root/c.yaml", &pod("c"));
    assert_eq!(next(&mut source).await, ["+c c.yaml:1"]);
}

#[tokio::test]
async fn bounds_are_said_and_links_that_go_round_end() {
    let folder = Folder::new("bounds");
    folder.write("a.yaml", &pod("a"));
    folder.write("b.yaml", &format!("{}# {}\n", pod("b"), "x".repeat(200)));
    folder.write("bad.yaml", "x: 1");
    fs::write(folder.root.join("c.yaml"), b"\xff").unwrap();
    symlink(&folder.root, folder.root.join("round")).unwrap();
    symlink("nowhere", folder.root.join("d.yaml")).unwrap();
    let bounds = Bounds {
        max_files: 10,
        max_file_bytes: 100,
    };
    let found = scan::look(&folder.root, bounds).unwrap();
    let told: Vec<_> = found
        .iter()
        .map(|file| match &file.content {
            state::FoundContent::Text(..) => format!("{} read", file.path),
            state::FoundContent::Unreadable(why) => format!("{} {why}", file.path),
        })
        .collect();
    assert_eq!(told[0], "a.yaml read");
    assert_eq!(told[1], "b.yaml is not read: it is larger than 100 bytes");
    assert_eq!(told[2], "bad.yaml read");
    assert!(told[3].starts_with("c.yaml is not UTF-8"), "{told:?}");
    assert!(told[4].starts_with("d.yaml cannot be read"), "{told:?}");
    assert_eq!(told.len(), 5);
    let few = Bounds { max_files: 1, ..bounds };
    let found = scan::look(&folder.root, few).unwrap();
    assert!(matches!(&found[1].content, state::FoundContent::Unreadable(why) if why.contains("more than 1 files")));
}

#[test]
fn a_folder_that_is_not_there_is_said_at_once() {
    let error = FolderSource::start(FolderConfig::new(Path::new("/nonexistent/manifests"))).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/manifests"), "{error}");
    assert!(error.to_string().contains("must exist"), "{error}");
}
