//! Container images without a container engine: OCI layouts in a tar file, as `ctr images import` and `docker load` read
//! them. The same content gives the same bytes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// One file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A folder and its permissions.
    Folder(&'static str, u32),
    /// A program, read from this machine, mode 0755.
    Program(String, PathBuf),
    /// A file with this content, mode 0644.
    Text(&'static str, String),
    /// A symbolic link to the second.
    Link(String, String),
}

/// An image with one layer.
pub(crate) struct Image {
    /// Fully qualified: registry, repository and tag.
    pub(crate) name: String,
    pub(crate) entries: Vec<Entry>,
    pub(crate) entrypoint: Vec<String>,
    /// `uid` or `uid:gid`; root when empty.
    pub(crate) user: &'static str,
}

impl Image {
    /// Writes the image as an OCI layout in a tar file.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut layer = Vec::new();
        self.write_layer(&mut Tar::new(&mut layer))?;
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "User": self.user, "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
        });
        let config = serde_json::to_vec(&config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", &layer)],
        });
        let manifest = serde_json::to_vec(&manifest)?;
        let mut listed = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        listed["annotations"] =
            json!({"io.containerd.image.name": self.name, "org.opencontainers.image.ref.name": tag});
        let index = serde_json::to_vec(&json!({"schemaVersion": 2, "manifests": [listed]}))?;
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut tar = Tar::new(BufWriter::new(file));
        tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644)?;
        tar.file("index.json", &index, 0o644)?;
        for blob in [&layer, &config, &manifest] {
            tar.file(&format!("blobs/sha256/{}", hash(blob)), blob, 0o644)?;
        }
        tar.finish()?.flush().context("cannot write the image")
    }

    fn write_layer<W: Write>(&self, tar: &mut Tar<W>) -> Result<()> {
        for entry in &self.entries {
            match entry {
                Entry::Folder(name, mode) => tar.folder(name, *mode)?,
                Entry::Program(name, from) => {
                    let content = std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
                    tar.file(name, &content, 0o755)?;
                }
                Entry::Text(name, content) => tar.file(name, content.as_bytes(), 0o644)?,
                Entry::Link(name, target) => tar.link(name, target)?,
            }
        }
        tar.end()
    }
}

/// Go's word for this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hash(bytes))
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": digest(bytes), "size": bytes.len()})
}

/// A writer of POSIX tar files without times and owners, so that they are reproducible.
struct Tar<W: Write> {
    out: W,
}

impl<W: Write> Tar<W> {
    fn new(out: W) -> Tar<W> {
        Tar { out }
    }

    fn file(&mut self, name: &str, content: &[u8], mode: u32) -> Result<()> {
        self.header(name, content.len(), mode, b'0', "")?;
        self.out.write_all(content)?;
        let padding = content.len().next_multiple_of(512) - content.len();
        self.out.write_all(&[0; 512][..padding])?;
        Ok(())
    }

    fn folder(&mut self, name: &str, mode: u32) -> Result<()> {
        self.header(&format!("{name}/"), 0, mode, b'5', "")
    }

    fn link(&mut self, name: &str, target: &str) -> Result<()> {
        self.header(name, 0, 0o777, b'2', target)
    }

    fn header(&mut self, name: &str, size: usize, mode: u32, kind: u8, target: &str) -> Result<()> {
        ensure!(name.len() <= 100 && target.len() <= 100, "{name} is too long a name for an image");
        let mut header = [0_u8; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{size:011o}\0").as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.out.write_all(&header)?;
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.out.write_all(&[0; 1024])?;
        Ok(())
    }

    fn finish(mut self) -> Result<W> {
        self.end()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::shell;

    fn example(program: &Path) -> Image {
        Image {
            name: "localhost/example:7".to_owned(),
            entries: vec![
                Entry::Folder("bin", 0o755),
                Entry::Program("bin/tool".to_owned(), program.to_owned()),
                Entry::Link("bin/other".to_owned(), "tool".to_owned()),
                Entry::Text("etc.txt", "hello\n".to_owned()),
            ],
            entrypoint: vec!["/bin/tool".to_owned()],
            user: "",
        }
    }

    #[test]
    fn an_image_is_reproducible_and_its_digests_are_those_of_its_blobs() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        std::fs::write(&program, vec![7_u8; 1000]).unwrap();
        let (one, two) = (folder.path().join("one.tar"), folder.path().join("two.tar"));
        example(&program).write(&one).unwrap();
        example(&program).write(&two).unwrap();
        assert_eq!(std::fs::read(&one).unwrap(), std::fs::read(&two).unwrap());
        let out = folder.path().join("out");
        std::fs::create_dir(&out).unwrap();
        shell::run(Command::new("tar").arg("-xf").arg(&one).arg("-C").arg(&out)).unwrap();
        let index: Value = serde_json::from_slice(&std::fs::read(out.join("index.json")).unwrap()).unwrap();
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap();
            let bytes = std::fs::read(out.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())).unwrap();
            assert_eq!(
                (super::digest(&bytes).as_str(), descriptor["size"].as_u64().unwrap()),
                (digest, bytes.len() as u64)
            );
            bytes
        };
        let manifest: Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        let config: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
        let layer = blob(&manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], super::digest(&layer));
        let layer_file = folder.path().join("layer.tar");
        std::fs::write(&layer_file, layer).unwrap();
        let listed = shell::output(Command::new("tar").arg("-tvf").arg(&layer_file)).unwrap();
        let names: Vec<&str> = listed.lines().map(|line| line.rsplit_once("00:00 ").unwrap().1).collect();
        assert_eq!(names, ["bin/", "bin/tool", "bin/other -> tool", "etc.txt"]);
    }
}
