//! Changes of several keys at once, and relative ones: whatever is lost, there by half, or there
//! twice shows.

use std::collections::BTreeMap;
use std::fmt::Display;

use latchwork::rmw::RmwError;

use crate::support::Node;

/// Accounts, a count of the transfers between them, and what was noted.
pub(crate) struct Ledger;

const ACCOUNTS: u64 = 6;

impl Ledger {
    /// Moves an amount between two accounts, and counts that.
    pub(crate) fn transfer(node: &Node, number: u64) -> Result<(), RmwError> {
        let from = format!("account:{}", number % ACCOUNTS);
        let to = format!("account:{}", (number + 1 + number % 3) % ACCOUNTS);
        let keys = [from.as_str(), to.as_str(), "count"];
        node.rmw.update_many(&keys, |tx| {
            tx.incr_by(&from, -(number as i64))?;
            tx.incr_by(&to, number as i64)?;
            tx.incr_by("count", 1)?;
            Ok(())
        })?
    }

    /// What a list and a string say; relative changes, so that one too many shows.
    pub(crate) fn note(node: &Node, number: u64) -> Result<(), RmwError> {
        node.rmw.rpush("list", [number.to_string()])?;
        node.rmw.append("string", format!("{number},"))?;
        Ok(())
    }

    /// Checks what is there, and returns how many transfers and notes that are.
    pub(crate) fn check(node: &Node, state: &dyn Display) -> (u64, u64) {
        let number = |key: &str| match node.rmw.get(key).unwrap() {
            None => 0,
            Some(value) => value.as_integer().unwrap(),
        };
        let count = number("count");
        let mut expected = BTreeMap::new();
        for n in 1..=count as u64 {
            *expected.entry(n % ACCOUNTS).or_insert(0) -= n as i64;
            let to = (n + 1 + n % 3) % ACCOUNTS;
            *expected.entry(to).or_insert(0) += n as i64;
        }
        for account in 0..ACCOUNTS {
            let expected = expected.get(&account).copied().unwrap_or(0);
            let found = number(&format!("account:{account}"));
            assert_eq!(found, expected, "account {account} of {count}: {state}");
        }
        let list = node.rmw.lrange("list", 0, -1).unwrap();
        for (at, element) in list.iter().enumerate() {
            assert_eq!(**element, *(at + 1).to_string().as_bytes(), "{state}");
        }
        let string = node.rmw.get("string").unwrap();
        let string = string.map_or(String::new(), |value| {
            String::from_utf8(value.to_vec()).unwrap()
        });
        let notes = list.len() as u64;
        let up_to = |notes| (1..=notes).map(|n| format!("{n},")).collect::<String>();
        // The string's note is the second record.
        let is_whole = string == up_to(notes) || string == up_to(notes.saturating_sub(1));
        assert!(is_whole, "{notes} in the list, {string:?}: {state}");
        (count as u64, notes)
    }
}
