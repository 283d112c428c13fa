//! The images of the test cluster: what a pod's first container runs, tools and an application for test pods, and culvert's
//! own programs as they were built.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cluster::image::{Entry, Image};
use crate::cluster::machines::PAUSE_IMAGE;
use crate::shell;

/// busybox with its applets as programs.
const TOOLS_IMAGE: &str = "localhost/culvert-test/tools:1";

/// The application of tests/cluster.
const APP_IMAGE: &str = "localhost/culvert-test/app:1";

/// Where the chart looks for culvert's images unless it is told another place.
const OWN_IMAGES: &str = "localhost/culvert";

/// Which programs are in which image, the one that is started first; and whom it runs as.
const OWN: &[(&str, &[&str], &str)] = &[
    ("culvert-control", &["culvert-control"], "65532:65532"),
    ("culvert-agent", &["culvert-agent", "culvert-cni", "culvert"], ""),
    ("culvert-keeper", &["culvert-keeper"], ""),
];

/// Writes the images that do not depend on anything built here into `folder` and returns the files.
pub(crate) fn basic(folder: &Path, debian: &Path) -> Result<Vec<PathBuf>> {
    let busybox = debian.join("bin/busybox");
    let sleeping = ["/bin/busybox", "sleep", "2000000000"].map(str::to_owned).to_vec();
    let pause = Image { name: PAUSE_IMAGE.to_owned(), entries: base(&busybox), entrypoint: sleeping, user: "" };
    let mut entries = base(&busybox);
    for applet in shell::output(Command::new(&busybox).arg("--list"))?.lines().filter(|applet| *applet != "busybox") {
        entries.push(Entry::Link(format!("bin/{applet}"), "busybox".to_owned()));
    }
    let tools = Image { name: TOOLS_IMAGE.to_owned(), entries, entrypoint: vec!["/bin/sh".to_owned()], user: "" };
    write(folder, &[("pause", pause), ("tools", tools)])
}

/// Writes culvert's images from the programs in `programs`.
pub(crate) fn own(folder: &Path, programs: &Path) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for (name, parts, user) in OWN {
        let version = env!("CARGO_PKG_VERSION");
        images.push((*name, built(&format!("{OWN_IMAGES}/{name}:{version}"), parts, programs, user)?));
    }
    write(folder, &images)
}

/// Writes the test application's image.
pub(crate) fn app(folder: &Path, programs: &Path) -> Result<Vec<PathBuf>> {
    write(folder, &[("app", built(APP_IMAGE, &["cluster-app"], programs, "")?)])
}

fn write(folder: &Path, images: &[(&str, Image)]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for (name, image) in images {
        let file = folder.join(format!("{name}.tar"));
        image.write(&file)?;
        files.push(file);
    }
    Ok(files)
}

fn base(busybox: &Path) -> Vec<Entry> {
    vec![
        Entry::Folder("bin", 0o755),
        Entry::Folder("etc", 0o755),
        Entry::Folder("tmp", 0o1777),
        Entry::Text("etc/passwd", "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n".to_owned()),
        Entry::Program("bin/busybox".to_owned(), busybox.to_owned()),
    ]
}

/// An image of programs, and of the libraries of this machine that they are linked with, if they are.
fn built(name: &str, parts: &[&str], programs: &Path, user: &'static str) -> Result<Image> {
    let mut entries = vec![
        Entry::Folder("tmp", 0o1777),
        Entry::Folder("etc", 0o755),
        Entry::Text("etc/passwd", "root:x:0:0::/:\nculvert:x:65532:65532::/:\n".to_owned()),
    ];
    let mut libraries = BTreeSet::new();
    for part in parts {
        let file = programs.join(part);
        libraries.extend(linked(&file)?);
        entries.push(Entry::Program(format!("usr/local/bin/{part}"), file));
    }
    for library in libraries {
        entries.push(Entry::Program(library.trim_start_matches('/').to_owned(), PathBuf::from(&library)));
    }
    let first = parts.first().context("an image has a program")?;
    Ok(Image { name: name.to_owned(), entries, entrypoint: vec![format!("/usr/local/bin/{first}")], user })
}

/// The files that the loader maps; none for a static program.
fn linked(program: &Path) -> Result<Vec<String>> {
    std::fs::metadata(program).with_context(|| format!("{} was not built", program.display()))?;
    // A static program is an error to `ldd`.
    let listed = shell::output(Command::new("ldd").arg(program)).unwrap_or_default();
    let words = listed.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    Ok(words.map(str::to_owned).collect())
}
