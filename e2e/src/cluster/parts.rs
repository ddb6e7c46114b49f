//! Where the programs of a Kubernetes control plane are: those that the user names, or those that `e2e/tools/kube-parts` has built.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::cache;

/// The versions that everything is tested with.
const VERSIONS: &str = include_str!("../../tools/kube/go.mod");

/// A file that `e2e/tools/kube-parts` provides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The store.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controllers of Kubernetes itself.
    ControllerManager,
    /// What users speak to it with.
    Kubectl,
    /// What users install charts with.
    Helm,
    /// The CustomResourceDefinition of InferencePool.
    InferencePoolDefinition,
}

impl Part {
    /// The setting that names another one, the module that it comes from, and folder and file in the cache.
    fn names(self) -> (&'static str, &'static str, &'static str, &'static str) {
        let kubernetes = "k8s.io/kubernetes";
        match self {
            Self::Etcd => ("ETCD_BIN", "go.etcd.io/etcd/server/v3", "etcd", "etcd"),
            Self::ApiServer => ("KUBE_APISERVER_BIN", kubernetes, "kube", "kube-apiserver"),
            Self::ControllerManager => (
                "KUBE_CONTROLLER_MANAGER_BIN",
                kubernetes,
                "kube",
                "kube-controller-manager",
            ),
            Self::Kubectl => ("KUBECTL_BIN", kubernetes, "kube", "kubectl"),
            Self::Helm => ("HELM_BIN", "helm.sh/helm/v4", "helm", "helm"),
            Self::InferencePoolDefinition => (
                "INFERENCE_POOL_CRD",
                "sigs.k8s.io/gateway-api-inference-extension",
                "inference-extension",
                "inferencepools.yaml",
            ),
        }
    }

    /// Where it is.
    ///
    /// # Errors
    /// When it is not there; the error says what provides it.
    pub fn path(self) -> Result<PathBuf> {
        let (setting, module, folder, file) = self.names();
        let given = std::env::var_os(setting).filter(|value| !value.is_empty());
        let path = match given {
            Some(given) => PathBuf::from(given),
            None => cache::folder()
                .join(format!("{folder}-{}", version(module)?))
                .join(file),
        };
        if !path.is_file() {
            bail!(
                "{file} is not built: there is no {}; run e2e/tools/kube-parts, or set {setting}",
                path.display()
            );
        }
        Ok(path)
    }
}

/// The version of a module, without its `v`.
fn version(module: &str) -> Result<&'static str> {
    let line = |line: &'static str| {
        let mut words = line.trim_start_matches("require").split_whitespace();
        (words.next() == Some(module)).then(|| words.next().unwrap_or_default())
    };
    let found = VERSIONS
        .lines()
        .find_map(|one| line(one).filter(|version| version.starts_with('v')));
    Ok(found
        .with_context(|| format!("e2e/tools/kube/go.mod does not require {module}"))?
        .trim_start_matches('v'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_a_version() {
        for part in [
            Part::Etcd,
            Part::ApiServer,
            Part::ControllerManager,
            Part::Kubectl,
            Part::Helm,
            Part::InferencePoolDefinition,
        ] {
            let (_, module, _, _) = part.names();
            let version = version(module).unwrap();
            assert!(
                version.starts_with(|digit: char| digit.is_ascii_digit()),
                "{module}: {version}"
            );
        }
    }
}
