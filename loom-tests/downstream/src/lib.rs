//! A bank, as somebody might write it over latchwork: accounts behind latches, and a limit on the
//! transfers that run.
//!
//! Nothing in here knows of loom. Its balances are plain atomics, which the accounts' latches
//! protect.

use std::sync::atomic::{AtomicI64, Ordering};

use latchwork::{LatchTable, Semaphore};

/// Why no money was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is not enough on the account.
    Overdrawn,
    /// As many transfers run as the bank allows.
    Overloaded,
}

/// Accounts, numbered from 0.
#[derive(Debug)]
pub struct Bank {
    balances: Vec<AtomicI64>,
    accounts: LatchTable<usize>,
    running: Semaphore,
}

impl Bank {
    /// A bank whose accounts hold `balances`, and in which `most` transfers run at a time.
    pub fn new(balances: &[i64], most: u64) -> Self {
        Self {
            balances: balances.iter().copied().map(AtomicI64::new).collect(),
            accounts: LatchTable::new(),
            running: Semaphore::new(most).expect("a bank allows at least one transfer"),
        }
    }

    /// Moves `amount` from one account to another.
    ///
    /// # Errors
    ///
    /// [`Refusal`]; then nothing was moved.
    pub fn transfer(&self, from: usize, to: usize, amount: i64) -> Result<(), Refusal> {
        let _running = self
            .running
            .try_acquire()
            .map_err(|_| Refusal::Overloaded)?;
        // Check, then act: right while nobody else can act in between.
        let early = cfg!(feature = "seeded_bug").then(|| self.balance(from));
        let _both = self
            .accounts
            .latch_many([&from, &to])
            .expect("a transfer holds no other latch");
        let balance = early.unwrap_or_else(|| self.balance(from));
        if balance < amount {
            return Err(Refusal::Overdrawn);
        }
        self.balances[from].store(balance - amount, Ordering::Relaxed);
        self.balances[to].store(self.balance(to) + amount, Ordering::Relaxed);
        Ok(())
    }

    /// What is on an account.
    pub fn balance(&self, account: usize) -> i64 {
        self.balances[account].load(Ordering::Relaxed)
    }

    /// What is on all accounts together.
    pub fn total(&self) -> i64 {
        (0..self.balances.len())
            .map(|account| self.balance(account))
            .sum()
    }
}
