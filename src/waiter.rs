//! waiter
