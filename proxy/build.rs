//! Embeds the kernel programs that `cargo xtask build-ebpf` built.
//!
//! The object is `target/bpf/redial-ebpf.o` in the workspace, or the file that `REDIAL_EBPF_OBJECT` names. Where there
//! is none, nothing is embedded, so that checks and unit tests need no BPF toolchain. The outcome is a file to include:
//! `include!(concat!(env!("OUT_DIR"), "/programs.rs"))` defines `OBJECT: Option<&[u8]>`.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let object = object()?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("cargo sets OUT_DIR"))?);

    let expression = if object.is_file() {
        fs::copy(object, out.join("redial-ebpf.o"))?;
        // The ELF parser reads the bytes in place and so wants them aligned.
        r#"Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/redial-ebpf.o")))"#
    } else {
        "None"
    };
    let programs = format!(
        "/// The kernel programs as an ELF object, or `None` in a build without them.\n\
         pub(crate) const OBJECT: Option<&[u8]> = {expression};\n"
    );
    fs::write(out.join("programs.rs"), programs)
}

/// Where the object is or would be; cargo is told what to watch for it.
fn object() -> io::Result<PathBuf> {
    println!("cargo::rerun-if-env-changed=REDIAL_EBPF_OBJECT");
    if let Some(object) = env::var_os("REDIAL_EBPF_OBJECT").map(PathBuf::from) {
        if !object.is_file() {
            return Err(io::Error::other(format!(
                "REDIAL_EBPF_OBJECT: there is no file {}",
                object.display()
            )));
        }
        println!("cargo::rerun-if-changed={}", object.display());
        return Ok(object);
    }
    // At run time: one target folder may serve several checkouts.
    let manifest =
        env::var_os("CARGO_MANIFEST_DIR").ok_or_else(|| io::Error::other("cargo sets CARGO_MANIFEST_DIR"))?;
    // Cargo takes a missing path for one that always changes, so the folder is watched and has to exist.
    let folder = Path::new(&manifest).join("../target/bpf");
    fs::create_dir_all(&folder)?;
    println!("cargo::rerun-if-changed={}", folder.display());
    Ok(folder.join("redial-ebpf.o"))
}
