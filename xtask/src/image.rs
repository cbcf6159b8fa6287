//! `cargo xtask image`: redial as a container image, without a registry and without a container runtime.
//!
//! An image here is one static program and nothing else, in an archive of the OCI's layout that also has what older
//! loaders read. The same program makes the same archive, byte by byte.

use crate::{build_ebpf, setup, shell};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where redial's image has its home.
const REPOSITORY: &str = "ghcr.io/redial-dev/redial";

/// The image that the tests' pods are made of.
pub(crate) const POD: &str = "redial.test/pod:1";

const SOURCE: &str = "https://github.com/redial-dev/redial";

/// Sets up, builds, and says what there is.
pub(crate) fn run() -> Result<()> {
    setup::to_build()?;
    build_ebpf::run()?;
    println!("{} ({})", redial()?.display(), reference());
    println!("to load it: `ctr -n k8s.io images import`, `podman load -i`, `docker load -i`");
    Ok(())
}

/// Builds the program of redial's image, with the kernel programs that are there.
pub(crate) fn redial_program() -> Result<PathBuf> {
    program("redial", "redial")
}

/// Builds redial's image.
pub(crate) fn redial() -> Result<PathBuf> {
    let program = redial_program()?;
    let program = publish("redial", &read(&program)?, 0o755)?;
    image("redial.tar", &reference(), &program, &["/redial"])
}

/// What redial's image is called.
pub(crate) fn reference() -> String {
    format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION"))
}

/// Builds the images that the tests' pods are made of: what `tests/pod` does, and the same as the process that holds a
/// pod's namespaces. The names are known to `tests/src/cluster.rs`.
pub(crate) fn pods() -> Result<[PathBuf; 2]> {
    let program = program("redial-pod", "pod")?;
    Ok([
        image("pod.tar", POD, &program, &["/pod"])?,
        image("pause.tar", "redial.test/pause:1", &program, &["/pod", "pause", "sandbox"])?,
    ])
}

/// A release build that needs no library at run time, of glibc: its memory allocator is the faster one.
fn program(package: &str, name: &str) -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let root = shell::root();
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let cargo = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home);
    let rust = shell::output(Command::new("rustc").current_dir(root).args(["--print", "sysroot"]))
        .map(PathBuf::from);
    // What a panic says of its place is not to depend on where it was built.
    let places = [(Some(root.to_path_buf()), "redial"), (cargo, "cargo"), (rust, "rust")];
    let places = places.into_iter().filter_map(|(from, to)| {
        from.map(|from| format!("\x1f--remap-path-prefix={}=/{to}", from.display()))
    });
    let flags = format!("-Ctarget-feature=+crt-static{}", places.collect::<String>());
    shell::run(
        shell::cargo("build")
            .args(["--release", "--target", &target, "--package", package, "--bin", name])
            .arg("--target-dir")
            .arg(root.join("target"))
            .env("CARGO_ENCODED_RUSTFLAGS", flags),
    )?;
    Ok(root.join("target").join(target).join("release").join(name))
}

/// Writes an image of one program, which is at `/` under its own name.
fn image(file: &str, reference: &str, program: &Path, entry_point: &[&str]) -> Result<PathBuf> {
    let name = program.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
    let layer = Blob::new(archive(&[(name.to_owned(), 0o755, read(program)?)])?);
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = Blob::json(&json!({
        "architecture": architecture,
        "os": "linux",
        "config": {
            "Entrypoint": entry_point,
            "Labels": {"org.opencontainers.image.source": SOURCE},
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.digest()]},
    }));
    let manifest = Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [layer.descriptor("application/vnd.oci.image.layer.v1.tar")],
    }));
    let mut listed = manifest.descriptor("application/vnd.oci.image.manifest.v1+json");
    // The first is the standard's and has the tag only; the second is how containerd knows the whole name.
    listed["annotations"] = json!({
        "org.opencontainers.image.ref.name": reference.rsplit(':').next(),
        "io.containerd.image.name": reference,
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [listed],
    });
    let docker = json!([{"Config": config.path(), "RepoTags": [reference], "Layers": [layer.path()]}]);
    let layout = json!({"imageLayoutVersion": "1.0.0"});

    let mut files: Vec<_> = [("oci-layout", layout), ("index.json", index), ("manifest.json", docker)]
        .map(|(name, value)| (name.to_owned(), 0o644, value.to_string().into_bytes()))
        .into();
    files.extend([layer, config, manifest].map(|blob| (blob.path(), 0o644, blob.bytes)));
    publish(file, &archive(&files)?, 0o644)
}

/// Something that is known by the sum of its bytes.
struct Blob {
    bytes: Vec<u8>,
    sum: String,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let mut sum = String::new();
        for byte in Sha256::digest(&bytes) {
            let _ = write!(sum, "{byte:02x}");
        }
        Self { bytes, sum }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.sum)
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.sum)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest(), "size": self.bytes.len()})
    }
}

/// A tar of files that have no time and no owner.
fn archive(files: &[(String, u32, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, mode, bytes) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len().try_into()?);
        header.set_mode(*mode);
        header.set_mtime(0);
        tar.append_data(&mut header, name, bytes.as_slice()).with_context(|| format!("archiving {name}"))?;
    }
    tar.into_inner().context("archiving")
}

/// Writes a file of `target/image` in one step.
fn publish(name: &str, bytes: &[u8], mode: u32) -> Result<PathBuf> {
    let folder = shell::root().join("target/image");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let (file, unfinished) = (folder.join(name), folder.join(format!("{name}.unfinished")));
    fs::write(&unfinished, bytes)
        .and_then(|()| fs::set_permissions(&unfinished, fs::Permissions::from_mode(mode)))
        .and_then(|()| fs::rename(&unfinished, &file))
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn read(file: &Path) -> Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}
