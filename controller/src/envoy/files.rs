//! Writes the files, each by an atomic rename, and only when its content changes.
//!
//! Order: endpoint files, then the list of clusters that names them, then files that no cluster names any more go.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use imbl::ordmap::DiffItem;

use super::json;
use super::rollout::Clusters;

/// The folder that Envoy watches.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    /// What each file holds, as far as it was written or read by us.
    content: BTreeMap<PathBuf, Vec<u8>>,
    /// What they say together; `None` = not known: a write failed, or there was none yet.
    said: Option<Clusters>,
}

// === impl Files ===

impl Files {
    /// Makes the folder where it is not there.
    ///
    /// # Errors
    /// The folder cannot be made or found.
    pub fn open(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder.join("eds"))?;
        // Envoy may run in another directory.
        let folder = folder.canonicalize()?;
        Ok(Self {
            folder,
            content: BTreeMap::new(),
            said: None,
        })
    }

    /// Makes the files say this. Returns how many were written.
    ///
    /// # Errors
    /// A file cannot be written; those before it have been.
    pub fn write(&mut self, clusters: &Clusters) -> io::Result<usize> {
        let said = self.said.take();
        let written = match &said {
            Some(said) if same_list(said, clusters) => self.write_members(said, clusters)?,
            _ => self.write_all(&said.unwrap_or_default(), clusters)?,
        };
        self.said = Some(clusters.clone());
        Ok(written)
    }

    /// The endpoint files whose content differs from what is said.
    fn write_members(&mut self, said: &Clusters, clusters: &Clusters) -> io::Result<usize> {
        let mut written = 0;
        for difference in said.diff(clusters) {
            if let DiffItem::Add(name, cluster)
            | DiffItem::Update {
                new: (name, cluster), ..
            } = difference
            {
                let path = self.folder.join("eds").join(json::file_name(name));
                written += usize::from(self.replace(&path, json::endpoint_list(cluster))?);
            }
        }
        Ok(written)
    }

    /// Envoy reads the list of clusters whole, so this takes a time that grows with it.
    fn write_all(&mut self, said: &Clusters, clusters: &Clusters) -> io::Result<usize> {
        let endpoints = self.folder.join("eds");
        let mut written = self.write_members(said, clusters)?;
        let named: BTreeSet<_> = clusters
            .keys()
            .map(|name| endpoints.join(json::file_name(name)))
            .collect();
        let list = json::cluster_list(clusters.values().map(|cluster| &**cluster), &self.folder);
        written += usize::from(self.replace(&self.folder.join("cds.json"), list)?);
        for entry in std::fs::read_dir(&endpoints)? {
            let path = entry?.path();
            if !named.contains(&path) {
                std::fs::remove_file(&path)?;
                self.content.remove(&path);
            }
        }
        Ok(written)
    }

    /// Returns whether the file had to be written.
    fn replace(&mut self, path: &Path, content: Vec<u8>) -> io::Result<bool> {
        let same = match self.content.get(path) {
            Some(old) => *old == content,
            // A predecessor may have written it: Envoy need not read it again.
            None => std::fs::read(path).is_ok_and(|old| old == content),
        };
        if !same {
            let temporary = path.with_extension("json.tmp");
            std::fs::write(&temporary, &content)?;
            std::fs::rename(&temporary, path)?;
        }
        self.content.insert(path.into(), content);
        Ok(!same)
    }
}

/// Whether the list of clusters is the same: who is in it, not where their endpoints are.
fn same_list(one: &Clusters, other: &Clusters) -> bool {
    one.diff(other).all(|difference| match difference {
        DiffItem::Update {
            old: (_, old),
            new: (_, new),
        } => old.https == new.https,
        DiffItem::Add(..) | DiffItem::Remove(..) => false,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::compile::Cluster;

    fn clusters(names: &[(&str, &[&str])]) -> Clusters {
        let cluster = |(name, addresses): &(&str, &[&str])| {
            let name = format!("model-server/ns/{name}/80");
            let addresses = addresses.iter().map(|address| address.parse().unwrap());
            (Arc::from(name.as_str()), Arc::new(Cluster::of(&name, addresses)))
        };
        names.iter().map(cluster).collect()
    }

    #[test]
    fn files_follow_the_clusters_and_are_left_alone_otherwise() {
        let folder = std::env::temp_dir().join(format!("kthena-envoy-files-{}", std::process::id()));
        let mut files = Files::open(&folder).unwrap();
        assert_eq!(
            files.write(&clusters(&[])).unwrap(),
            1,
            "an empty list, so that Envoy starts"
        );
        let two = clusters(&[("a", &["10.0.0.1:80"]), ("b", &[])]);
        assert_eq!(files.write(&two).unwrap(), 3);
        assert_eq!(files.write(&two).unwrap(), 0);
        assert_eq!(
            Files::open(&folder).unwrap().write(&two).unwrap(),
            0,
            "nor after a restart"
        );
        let grown = clusters(&[("a", &["10.0.0.1:80", "[fd00::1]:80"]), ("b", &[])]);
        assert_eq!(
            files.write(&grown).unwrap(),
            1,
            "the cluster list does not change with endpoints"
        );
        files.write(&clusters(&[("b", &[])])).unwrap();
        let left: Vec<_> = std::fs::read_dir(folder.join("eds"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["ns.b.80.json"]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
