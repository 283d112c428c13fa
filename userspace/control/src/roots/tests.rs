//! Each step at its time, and again after a crash.

use culvert_manifests::{Catalog, MeshOverrides};
use culvert_wire::{Kind, TrustBundle};

use super::*;
use crate::{
    ca::ISSUING_LIFE,
    index::{Kept, Owner, Reading, Sources},
};

const HOLD: Duration = Duration::from_secs(100);
const GONE: Duration = Duration::from_secs(1000);

struct Bench {
    root: tempfile::TempDir,
    now: SystemTime,
}

impl Bench {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), now: SystemTime::now() }
    }

    fn state(&self) -> StateDir {
        StateDir::open(&self.root.path().join("state")).unwrap()
    }

    fn keeper(&self) -> RootKeeper {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let authority = Arc::new(Authority::open(self.state(), domain.clone(), ISSUING_LIFE, self.now).unwrap());
        let overrides = MeshOverrides {
            trust_domain: domain.clone(),
            default_mode: None,
            default_action: None,
            cluster_ranges: vec![],
        };
        let bundle = TrustBundle { trust_domain: domain, authorities: authority.roots().ders, sequence: 1 };
        let sources = Sources { state: self.state(), overrides, bundle };
        let reading = Reading::Catalog(Catalog::default(), Vec::new());
        let (owner, published) = Owner::new(sources, Kept::default(), reading).unwrap();
        let (changes, queue) = mpsc::channel(8);
        tokio::spawn(owner.run(queue));
        RootKeeper { state: self.state(), authority, changes, published, nodes: Arc::default() }
    }

    fn begin(&self) -> Result<(), RotationError> {
        begin(&self.state(), HOLD, GONE, self.now)
    }
}

fn shown(bench: &Bench) -> Vec<Vec<u8>> {
    Roots::of_pem(&text(&bench.state(), ROOT_PEM).unwrap()).unwrap().ders
}

#[tokio::test]
async fn the_next_root_is_announced_then_signs_then_the_old_one_goes() {
    let bench = Bench::new();
    let mut keeper = bench.keeper();
    let (old, issuing) = (keeper.authority.roots(), std::fs::read(bench.state().path("issuing.pem")).unwrap());
    let still = || std::fs::read(bench.state().path("issuing.pem")).unwrap() == issuing;
    let mut told = None;
    keeper.look(&mut told, bench.now).await.unwrap();
    assert_eq!((keeper.authority.roots(), told), (old.clone(), None), "nobody asked for another root");
    bench.begin().unwrap();
    assert_eq!(bench.begin().unwrap_err().reason(), "rotation_under_way");

    keeper.nodes.update("n1", |entry| entry.streams = 1);
    keeper.look(&mut told, bench.now).await.unwrap();
    let both = keeper.authority.roots();
    assert_eq!((both.ders.len(), &both.ders[0], shown(&bench)), (2, &old.ders[0], both.ders.clone()));
    let bundle = keeper.published.borrow().snapshot.table(Kind::Bundle).clone();
    assert!(bundle.values().any(|entry| entry.body.value.windows(20).any(|part| part == &both.ders[1][..20])));
    // Time alone is not enough: a node that has not taken the root would refuse what it signs.
    keeper.look(&mut told, bench.now + HOLD).await.unwrap();
    assert!(still());
    keeper.nodes.update("n1", |entry| entry.answered_generation = told.unwrap());
    // Nor is that: agents that are away for a moment have to learn of it as well.
    keeper.look(&mut told, bench.now + HOLD - Duration::from_secs(1)).await.unwrap();
    assert!(still());

    keeper.look(&mut told, bench.now + HOLD).await.unwrap();
    assert!(!still(), "the next root signs");
    let turned: Vec<_> = both.ders.iter().rev().cloned().collect();
    assert_eq!((keeper.authority.roots().ders, shown(&bench)), (turned.clone(), turned.clone()));
    let used = bench.now + HOLD;
    keeper.look(&mut told, used + GONE - Duration::from_secs(1)).await.unwrap();
    assert_eq!(shown(&bench), turned, "leaves under the old root are in use");
    keeper.look(&mut told, used + GONE).await.unwrap();
    assert_eq!((keeper.authority.roots().ders, shown(&bench)), (turned[..1].to_vec(), turned[..1].to_vec()));
    bench.begin().expect("the next rotation may begin");
}

#[tokio::test]
async fn a_restart_at_any_step_goes_on_where_it_was() {
    let bench = Bench::new();
    let old = bench.keeper().authority.roots();
    bench.begin().unwrap();
    bench.keeper().look(&mut None, bench.now).await.unwrap();
    let mut again = bench.keeper();
    assert_eq!(again.authority.roots().ders.len(), 2, "announced before the restart");
    // A crash after the key was put in place and before anything else was.
    let next = text(&bench.state(), NEXT_KEY).unwrap();
    bench.state().write(ROOT_KEY, next.as_bytes()).unwrap();
    again.look(&mut None, bench.now + HOLD).await.unwrap();
    assert_eq!(again.authority.roots().ders[1], old.ders[0]);
    let last = bench.keeper();
    assert_eq!(last.authority.roots(), again.authority.roots());
    last.authority.renew_issuing(bench.now).expect("root.key is that of the first root");
}

#[test]
fn a_folder_without_a_root_has_nothing_to_rotate() {
    assert_eq!(Bench::new().begin().unwrap_err().reason(), "no_root");
}
