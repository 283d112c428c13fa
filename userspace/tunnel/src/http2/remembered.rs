//! What both ends of a tunnel say about their workloads with every stream, in the same words: read and written once.

use std::sync::Arc;

use super::{headers::text, hpack};
use crate::connect::Baggage;

/// Most that is remembered of lines, in bytes: a peer decides how many and how long its own are.
const WORTH_IT: usize = 1024;

/// What the peer said last.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    lines: Vec<Vec<u8>>,
    meant: Arc<Baggage>,
}

impl Heard {
    /// What these lines of `baggage` mean.
    pub(crate) fn read(&mut self, lines: Vec<Vec<u8>>) -> Arc<Baggage> {
        if lines == self.lines {
            return self.meant.clone();
        }
        let meant = Arc::new(Baggage::parse(lines.iter().filter_map(|line| text(line))));
        if lines.iter().map(|line| line.len() + size_of::<Vec<u8>>()).sum::<usize>() <= WORTH_IT {
            *self = Self { lines, meant: meant.clone() };
        }
        meant
    }
}

/// What was said last to the peer.
#[derive(Debug, Default)]
pub(crate) struct Said {
    meant: Option<Arc<Baggage>>,
    field: Box<[u8]>,
}

impl Said {
    /// The field `baggage` of a header block; empty where there is nothing to say.
    pub(crate) fn field(&mut self, about: &Arc<Baggage>) -> &[u8] {
        if !self.meant.as_ref().is_some_and(|meant| Arc::ptr_eq(meant, about)) {
            let mut field = Vec::new();
            if let Some(value) = about.to_header() {
                hpack::put_new(&mut field, b"baggage", value.as_bytes());
            }
            *self = Self { meant: Some(about.clone()), field: field.into() };
        }
        &self.field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Vec<u8>> {
        vec![text.as_bytes().to_vec()]
    }

    fn namespace(name: &str) -> Arc<Baggage> {
        Arc::new(Baggage { namespace: Some(name.into()), ..Baggage::default() })
    }

    #[test]
    fn other_words_are_read_anew_and_the_same_are_not() {
        let mut heard = Heard::default();
        assert_eq!(*heard.read(Vec::new()), Baggage::default());
        let shop = heard.read(lines("k8s.namespace.name=shop"));
        assert_eq!(shop, namespace("shop"));
        assert!(Arc::ptr_eq(&shop, &heard.read(lines("k8s.namespace.name=shop"))), "read twice");
        assert_eq!(heard.read(lines("k8s.namespace.name=data")), namespace("data"));
        assert_eq!(*heard.read(Vec::new()), Baggage::default(), "the words of an earlier stream");
    }

    #[test]
    fn long_lines_are_not_kept() {
        let mut heard = Heard::default();
        let long = format!("k8s.namespace.name=shop,x={}", "y".repeat(WORTH_IT));
        assert_eq!(heard.read(lines(&long)), namespace("shop"));
        assert!(heard.lines.is_empty());
        heard.read(vec![Vec::new(); WORTH_IT]);
        assert!(heard.lines.is_empty(), "many that are empty");
    }

    #[test]
    fn what_is_said_follows_whom_it_is_about() {
        let mut said = Said::default();
        let (shop, data) = (namespace("shop"), namespace("data"));
        let first = said.field(&shop).to_vec();
        assert!(first.ends_with(b"k8s.namespace.name=shop"));
        assert_eq!(said.field(&shop), first);
        assert!(said.field(&data).ends_with(b"k8s.namespace.name=data"));
        assert!(said.field(&Arc::default()).is_empty());
    }
}
