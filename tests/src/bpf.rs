//! What a process has in the kernel: programs, maps, and the links that attach programs.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use aya::maps::loaded_maps;
use aya::programs::{loaded_links, loaded_programs};
use nix::unistd::Pid;

use crate::cluster::until;

/// By their ids, which the kernel gives once only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    pub programs: BTreeSet<u32>,
    pub maps: BTreeSet<u32>,
    pub links: BTreeSet<u32>,
}

impl Objects {
    /// Adds those that a process has descriptors of.
    pub fn add(&mut self, process: Pid) -> Result<()> {
        let folder = format!("/proc/{process}/fdinfo");
        for entry in fs::read_dir(&folder).context(folder)? {
            // One that is closed meanwhile is none.
            let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
            for line in text.lines() {
                let Some((word, id)) = line.split_once(":\t") else { continue };
                let ids = match word {
                    "prog_id" => &mut self.programs,
                    "map_id" => &mut self.maps,
                    "link_id" => &mut self.links,
                    _ => continue,
                };
                ids.insert(id.trim().parse()?);
            }
        }
        Ok(())
    }

    /// Waits until the kernel has none of them: it frees them when it comes to it.
    pub fn wait_gone(&self) -> Result<()> {
        until("the end of what was in the kernel", || {
            let left = self.left()?;
            ensure!(left == Self::default(), "{left:?}");
            Ok(Some(()))
        })
    }

    /// Those of them that the kernel still has.
    fn left(&self) -> Result<Self> {
        let mut left = Self::default();
        for program in loaded_programs() {
            left.programs.extend(Some(program?.id()).filter(|id| self.programs.contains(id)));
        }
        for map in loaded_maps() {
            left.maps.extend(Some(map?.id()).filter(|id| self.maps.contains(id)));
        }
        for link in loaded_links() {
            left.links.extend(Some(link?.id()).filter(|id| self.links.contains(id)));
        }
        Ok(left)
    }
}
