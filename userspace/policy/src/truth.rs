//! Three values, Kleene's logic: `AND` is the minimum, `OR` the maximum, `NOT` swaps.

/// What a rule, or a part of one, says about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Truth {
    /// It does not hold.
    False,
    /// It depends on something that this layer cannot see. ALLOW takes it as no, DENY as yes.
    Unknown,
    /// It holds.
    True,
}

impl Truth {
    /// Conjunction of all; nothing at all holds.
    pub fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut least = Self::True;
        for part in parts {
            least = least.min(part);
            if least == Self::False {
                break;
            }
        }
        least
    }

    /// Disjunction of all; nothing at all does not hold.
    pub fn any(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut most = Self::False;
        for part in parts {
            most = most.max(part);
            if most == Self::True {
                break;
            }
        }
        most
    }

    /// Whether a DENY, AUDIT or CUSTOM rule acts on it.
    pub fn may_hold(self) -> bool {
        self != Self::False
    }

    /// Whether an ALLOW rule acts on it.
    pub fn holds(self) -> bool {
        self == Self::True
    }
}

impl std::ops::Not for Truth {
    type Output = Self;
    fn not(self) -> Self {
        match self {
            Self::False => Self::True,
            Self::Unknown => Self::Unknown,
            Self::True => Self::False,
        }
    }
}

impl From<bool> for Truth {
    fn from(holds: bool) -> Self {
        if holds { Self::True } else { Self::False }
    }
}
