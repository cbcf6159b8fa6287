//! The cluster's certificates, and the files that say how to reach it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Without openssl's own settings, which would make everybody an authority.
const CONFIG: &str = "[req]\ndistinguished_name = name\n[name]\n";

/// A folder of keys, each `NAME.key` with its `NAME.crt`.
#[derive(Debug)]
pub(super) struct Pki {
    folder: PathBuf,
}

impl Pki {
    pub(super) fn new(folder: &Path) -> Result<Self> {
        fs::create_dir(folder)?;
        let pki = Self { folder: folder.to_owned() };
        fs::write(pki.file("openssl.cnf"), CONFIG)?;
        pki.issue("ca", "/CN=authority", &["basicConstraints=critical,CA:TRUE"], &[])?;
        Ok(pki)
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A certificate that serves for a server as well as for a client.
    pub(super) fn certificate(&self, name: &str, subject: &str, addresses: &[Ipv4Addr]) -> Result<()> {
        let mut extensions = vec!["extendedKeyUsage=serverAuth,clientAuth".to_owned()];
        if !addresses.is_empty() {
            let addresses: Vec<_> = addresses.iter().map(|address| format!("IP:{address}")).collect();
            extensions.push(format!("subjectAltName={}", addresses.join(",")));
        }
        let extensions: Vec<_> = extensions.iter().map(String::as_str).collect();
        let (ca, key) = (self.file("ca.crt"), self.file("ca.key"));
        self.issue(name, subject, &extensions, &[("-CA", &ca), ("-CAkey", &key)])
    }

    fn issue(&self, name: &str, subject: &str, extensions: &[&str], by: &[(&str, &Path)]) -> Result<()> {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        openssl.args(["-days", "30", "-subj", subject]);
        openssl.arg("-config").arg(self.file("openssl.cnf"));
        openssl.arg("-keyout").arg(self.file(&format!("{name}.key")));
        openssl.arg("-out").arg(self.file(&format!("{name}.crt")));
        for extension in extensions {
            openssl.args(["-addext", extension]);
        }
        for (option, file) in by {
            openssl.arg(option).arg(file);
        }
        let output = openssl
            .stdin(Stdio::null())
            .output()
            .context("running openssl; `cargo xtask setup` installs it")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the certificate of {name}: {said}");
        Ok(())
    }

    /// Writes how somebody who has a certificate reaches the API server, and says where.
    pub(super) fn kubeconfig(&self, name: &str, server: &str) -> Result<PathBuf> {
        let file = |suffix: &str| self.file(&format!("{name}.{suffix}")).display().to_string();
        let (certificate, key, authority) = (file("crt"), file("key"), self.file("ca.crt"));
        let text = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "tests", "cluster": {"server": server, "certificate-authority": authority},
            }],
            "users": [{"name": name, "user": {"client-certificate": certificate, "client-key": key}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": name}}],
            "current-context": "tests",
        });
        let path = self.file(&format!("{name}.kubeconfig"));
        fs::write(&path, text.to_string())?;
        Ok(path)
    }
}
