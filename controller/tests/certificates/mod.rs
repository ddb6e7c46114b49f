//! An authority that signs certificates, and files that hold them and are replaced.
#![allow(dead_code)] // each story uses some of it

use std::path::PathBuf;

use kthena_controller::peers::Credentials;
use kthena_controller::publish::{Access, Tls};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};

pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self {
            pem: params.self_signed(&key).unwrap().pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// A certificate of this name, a DNS name or a URI, and its key.
    pub(crate) fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let text = name.try_into().unwrap();
        params.subject_alt_names = vec![match name.contains("://") {
            true => SanType::URI(text),
            false => SanType::DnsName(text),
        }];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// Files as in a volume of Kubernetes: what they are linked to is swapped as a whole.
pub(crate) struct Volume {
    path: PathBuf,
    versions: u32,
}

impl Volume {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("kthena-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self { path, versions: 0 }
    }

    pub(crate) fn swap(&mut self, ca: &str, (cert, key): &(String, String)) {
        self.versions += 1;
        let version = self.path.join(format!("..{}", self.versions));
        std::fs::create_dir(&version).unwrap();
        for (name, text) in [("ca", ca), ("cert", cert), ("key", key)] {
            std::fs::write(version.join(name), text).unwrap();
            if self.versions == 1 {
                std::os::unix::fs::symlink(format!("..data/{name}"), self.path.join(name)).unwrap();
            }
        }
        let link = self.path.join("..new");
        std::os::unix::fs::symlink(version, &link).unwrap();
        std::fs::rename(link, self.path.join("..data")).unwrap();
    }

    /// Access for those whose certificates the authorities signed, and within these scopes.
    pub(crate) fn access(&self, scopes: &[&str]) -> Access {
        Access {
            tls: Some(Tls {
                cert: self.path.join("cert"),
                key: self.path.join("key"),
                client_ca: Some(self.path.join("ca")),
            }),
            scopes: scopes.iter().map(|scope| scope.parse().unwrap()).collect(),
            ..Access::default()
        }
    }

    /// What a controller of this name shows others of it.
    pub(crate) fn credentials(&self, name: &str) -> Credentials {
        Credentials {
            ca: self.path.join("ca"),
            cert: self.path.join("cert"),
            key: self.path.join("key"),
            server_name: Some(name.to_owned()),
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.path).unwrap();
    }
}

/// A connection to a controller of this name that trusts an authority and shows a certificate.
pub(crate) async fn connect(
    address: &str,
    name: &str,
    trusted: &Authority,
    identity: Option<&(String, String)>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(&trusted.pem))
        .domain_name(name);
    if let Some((cert, key)) = identity {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    let endpoint = Channel::from_shared(format!("https://{address}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await
}
