//! Kinds that a cluster does not have by itself.

use anyhow::{Result, ensure};
use redial_tests::cluster::Cluster;

/// Definitions of kinds. Drop deletes them, and with them all objects that they are of.
pub(crate) struct Definitions<'a> {
    cluster: &'a Cluster,
    documents: String,
}

impl<'a> Definitions<'a> {
    pub(crate) fn install(cluster: &'a Cluster, documents: &str) -> Result<Self> {
        // Those that there are already are somebody's.
        let there = cluster.present(documents)?;
        ensure!(there.is_empty(), "the cluster has kinds already that this test makes and deletes:\n{there}");
        let definitions = Self { cluster, documents: documents.to_owned() };
        cluster.apply(documents)?;
        for name in cluster.present(documents)?.lines() {
            cluster.wait(name, "condition=Established")?;
        }
        Ok(definitions)
    }
}

impl Drop for Definitions<'_> {
    fn drop(&mut self) {
        drop(self.cluster.take_back(&self.documents));
    }
}
