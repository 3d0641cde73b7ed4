//! The bank's own model: `RUSTFLAGS="--cfg latchwork_loom" cargo test --release`.
#![cfg(latchwork_loom)]

use std::sync::Arc;

use bank::{Bank, Refusal};
use latchwork::model::{model, thread};

/// Catches money that is made or lost by two transfers at the same time, and an overdrawn account.
#[test]
fn transfers_conserve_the_total() {
    model(|| {
        let bank = Arc::new(Bank::new(&[100, 0], 2));
        let other = thread::spawn({
            let bank = bank.clone();
            move || bank.transfer(0, 1, 60)
        });
        let mine = bank.transfer(0, 1, 60);
        let others = other.join().unwrap();
        let refused = [mine, others].iter().filter(|end| end.is_err()).count();
        assert_eq!(
            refused, 1,
            "100 is enough for one transfer of 60: {mine:?}, {others:?}"
        );
        assert_eq!(bank.total(), 100, "money was made, or lost");
        assert_eq!((bank.balance(0), bank.balance(1)), (40, 60));
    });
}

/// Catches two transfers in opposite directions that wait for each other's account.
#[test]
fn opposite_transfers_both_end() {
    model(|| {
        let bank = Arc::new(Bank::new(&[50, 50], 2));
        let other = thread::spawn({
            let bank = bank.clone();
            move || bank.transfer(0, 1, 10)
        });
        bank.transfer(1, 0, 20).unwrap();
        other.join().unwrap().unwrap();
        assert_eq!((bank.balance(0), bank.balance(1)), (60, 40));
    });
}

/// Catches a refused transfer that keeps its permit.
#[test]
fn no_more_transfers_run_than_are_allowed() {
    model(|| {
        let bank = Arc::new(Bank::new(&[10, 0], 1));
        let other = thread::spawn({
            let bank = bank.clone();
            move || bank.transfer(0, 1, 1)
        });
        let mine = bank.transfer(0, 1, 1);
        let others = other.join().unwrap();
        assert!(mine.is_ok() || others.is_ok(), "{mine:?}, {others:?}");
        for end in [mine, others] {
            assert!(matches!(end, Ok(()) | Err(Refusal::Overloaded)));
        }
        assert_eq!(bank.transfer(1, 0, 5), Err(Refusal::Overdrawn));
        bank.transfer(0, 1, 1).unwrap();
    });
}
