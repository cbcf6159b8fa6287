//! The policies that are in force, read again where their files or objects have changed.

use super::{Agent, pods::Pods};
use crate::{
    dialect::{self, Loaded, Together},
    kubernetes::{self, Object},
};
use std::{collections::BTreeSet, fs, future::pending, path::PathBuf, sync::Arc, time::SystemTime};
use tokio::task::JoinHandle;

/// Policies that are being read.
pub(super) struct Loading {
    read: JoinHandle<Result<Together, dialect::LoadError>>,
    /// The objects among them.
    objects: Arc<[Object]>,
    /// They have changed since.
    has_changed: bool,
}

/// What was read, as soon as it is, if anything is being read; else nothing, ever. Cancel safe.
pub(super) async fn next(loading: &mut Option<Loading>) -> Result<Together, String> {
    match loading {
        Some(loading) => match (&mut loading.read).await {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        },
        None => pending().await,
    }
}

impl Agent {
    /// Reads the policies again, on a thread of its own. With anything wrong, those in force stay in force.
    pub fn reload(&mut self) {
        if let Some(loading) = &mut self.loading {
            loading.has_changed = true;
            return;
        }
        self.policy_files = Fingerprint::of(&self.settings.config);
        let (config, options) = (self.settings.config.clone(), self.settings.dialect);
        let documents = self.pods.as_ref().map(Pods::documents).unwrap_or_default();
        let read = move || dialect::load_together(&config, options, &documents);
        let objects = self.pods.as_ref().map(|pods| Arc::clone(pods.objects())).unwrap_or_default();
        self.loading = Some(Loading { read: tokio::task::spawn_blocking(read), objects, has_changed: false });
    }

    pub(super) fn loaded(&mut self, read: Result<Together, String>) {
        let Some(Loading { read: _, objects, has_changed }) = self.loading.take() else { return };
        match read {
            Ok(Together { loaded: Loaded { table, notes }, refused, good }) => {
                self.node.set_table(table);
                tell(&notes);
                if let Some(pods) = &mut self.pods {
                    pods.report(objects, refused, good);
                }
            }
            Err(error) => self.node.refuse_table(&error),
        }
        // Not awaited: connections do not wait for DNS.
        drop(self.watch_names());
        if has_changed {
            self.reload();
        }
        self.announce_node();
    }

    /// Follows what the names in the policies stand for. The future waits a moment for the first answers.
    pub(super) fn watch_names(&self) -> impl Future<Output = ()> + use<> {
        let table = self.node.table();
        let (services, hosts) = match &self.pods {
            Some(_) => kubernetes::split_services(table.hosts()),
            None => (BTreeSet::new(), table.hosts().cloned().collect()),
        };
        let watched = self.node.watch_names(hosts, &services);
        if let Some(pods) = &self.pods {
            pods.need(services);
        }
        watched
    }
}

/// Policies that are in force may still not do what their authors meant.
pub(super) fn tell(notes: &[dialect::Note]) {
    for dialect::Note { code, file, line, field, message } in notes {
        tracing::warn!(%code, file = %file.display(), line, field, "{message}");
    }
}

/// What tells one state of the policy files from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<(PathBuf, Option<SystemTime>, u64)>);

impl Fingerprint {
    pub(super) fn of(paths: &[PathBuf]) -> Self {
        let mut files = Vec::new();
        for path in paths {
            files.push(Self::file(path.clone()));
            let entries = fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
            files.extend(entries.map(|entry| Self::file(entry.path())));
        }
        files.sort();
        Self(files)
    }

    fn file(path: PathBuf) -> (PathBuf, Option<SystemTime>, u64) {
        let metadata = fs::metadata(&path).ok();
        let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
        (path, modified, metadata.map_or(0, |metadata| metadata.len()))
    }
}
