//! The folder of YAML that the controller reads: Pods, ModelServers and ModelRoutes, as Kubernetes has them.
//!
//! Objects are JSON values, so that a test can change any field before it is written, also to something that is wrong. A file is replaced
//! by a rename: the controller never sees half of one.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// Where a name in [`Manifests`] begins that the controller is not to read, being no `.yaml`.
const UNFINISHED: &str = "unfinished";

/// A folder of manifests.
#[derive(Clone, Debug)]
pub struct Manifests {
    folder: PathBuf,
}

impl Manifests {
    /// The manifests in this folder, which is made if it is not there.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Replaces a file, such as `llama.yaml`, by these objects.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, file: &str, objects: &[Value]) -> Result<()> {
        let mut text = String::new();
        for object in objects {
            text.push_str("---\n");
            text.push_str(&serde_saphyr::to_string(object).context("an object is always YAML")?);
        }
        self.write_text(file, &text)
    }

    /// Replaces a file by this text, whatever it is.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write_text(&self, file: &str, text: &str) -> Result<()> {
        let unfinished = self.folder.join(format!(".{file}.{UNFINISHED}"));
        fs::write(&unfinished, text).with_context(|| format!("cannot write {}", unfinished.display()))?;
        let file = self.folder.join(file);
        fs::rename(&unfinished, &file).with_context(|| format!("cannot replace {}", file.display()))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, file: &str) -> Result<()> {
        let file = self.folder.join(file);
        fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
    }
}

/// A Pod of the namespace `default`, labelled `app: <app>`.
#[must_use]
pub fn pod(name: &str, app: &str, ip: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "labels": {"app": app}},
        "spec": {"containers": [{"name": "engine", "image": "vllm/vllm-openai"}]},
        "status": {"phase": "Running", "podIP": ip.to_string()},
    })
}

/// A ModelServer of vLLM in the namespace `default`, for the Pods labelled `app: <name>`; `model` is the name that the engine knows.
#[must_use]
pub fn model_server(name: &str, model: &str, port: u16) -> Value {
    json!({
        "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelServer",
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            "model": model, "inferenceEngine": "vLLM", "workloadPort": {"port": port},
            "workloadSelector": {"matchLabels": {"app": name}},
        },
    })
}

/// The Envoy cluster that the controller makes of a ModelServer of the namespace `default`.
#[must_use]
pub fn cluster(server: &str, port: u16) -> String {
    format!("model-server/default/{server}/{port}")
}

/// A ModelRoute in the namespace `default` that sends all requests for a model to one ModelServer.
#[must_use]
pub fn model_route(name: &str, model: &str, server: &str) -> Value {
    json!({
        "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelRoute",
        "metadata": {"namespace": "default", "name": name},
        "spec": {"modelName": model, "rules": [{"name": "all", "targetModels": [{"modelServerName": server}]}]},
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn files_hold_the_objects_and_leave_nothing_else_behind() {
        let scratch = Scratch::new("manifests").unwrap();
        let manifests = Manifests::new(&scratch.path().join("folder")).unwrap();
        let objects = [
            model_server("llama", "meta/llama", 8000),
            pod("llama-0", "llama", Ipv4Addr::new(127, 0, 1, 1)),
        ];
        manifests.write("llama.yaml", &objects[..1]).unwrap();
        manifests.write("llama.yaml", &objects).unwrap();
        let files: Vec<_> = fs::read_dir(manifests.path())
            .unwrap()
            .map(|file| file.unwrap().file_name())
            .collect();
        assert_eq!(files, ["llama.yaml"]);
        let text = fs::read_to_string(manifests.path().join("llama.yaml")).unwrap();
        let read: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
        assert_eq!(read, objects);
        manifests.remove("llama.yaml").unwrap();
        assert!(manifests.remove("llama.yaml").is_err());
    }
}
