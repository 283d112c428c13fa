//! The images of the test cluster that are not culvert's: what a pod's first container runs, and tools for test pods.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::cluster::image::{Entry, Image};
use crate::cluster::machines::PAUSE_IMAGE;
use crate::shell;

/// busybox with its applets as programs.
pub(crate) const TOOLS_IMAGE: &str = "localhost/culvert-test/tools:1";

/// Writes both into `folder` and returns the files.
pub(crate) fn write(folder: &Path, debian: &Path) -> Result<Vec<PathBuf>> {
    let busybox = debian.join("bin/busybox");
    let mut files = Vec::new();
    let sleeping = ["/bin/busybox", "sleep", "2000000000"].map(str::to_owned).to_vec();
    let pause = Image { name: PAUSE_IMAGE.to_owned(), entries: base(&busybox), entrypoint: sleeping, user: "" };
    let mut entries = base(&busybox);
    for applet in shell::output(Command::new(&busybox).arg("--list"))?.lines().filter(|applet| *applet != "busybox") {
        entries.push(Entry::Link(format!("bin/{applet}"), "busybox".to_owned()));
    }
    let tools = Image { name: TOOLS_IMAGE.to_owned(), entries, entrypoint: vec!["/bin/sh".to_owned()], user: "" };
    for (image, file) in [(pause, "pause.tar"), (tools, "tools.tar")] {
        image.write(&folder.join(file))?;
        files.push(folder.join(file));
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
