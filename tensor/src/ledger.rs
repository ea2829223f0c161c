//! The memory ledger: bytes held now and at the peak, by category. `medley plan`'s figures and a
//! run's `peak_memory_bytes` come from here.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Category {
    /// Base model weights, owned or mapped.
    Weights,
    /// LoRA matrices and other small trainable weights.
    Adapters,
    /// Accumulated gradients of leaves.
    Gradients,
    /// Optimizer state.
    Optimizer,
    /// Values of the forward and backward pass.
    Activations,
    /// Packing panels and other scratch.
    Workspace,
}

/// All categories in the order of a [`Snapshot`].
pub const CATEGORIES: [Category; 6] = [
    Category::Weights,
    Category::Adapters,
    Category::Gradients,
    Category::Optimizer,
    Category::Activations,
    Category::Workspace,
];

impl Category {
    /// The category that buffers made on this thread are charged to now.
    pub fn current() -> Self {
        CURRENT.get()
    }

    /// Lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Category::Weights => "weights",
            Category::Adapters => "adapters",
            Category::Gradients => "gradients",
            Category::Optimizer => "optimizer",
            Category::Activations => "activations",
            Category::Workspace => "workspace",
        }
    }
}

struct Account {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Account {
    const fn new() -> Self {
        Account { now: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    fn add(&self, bytes: usize) {
        let now = self.now.fetch_add(bytes, Relaxed) + bytes;
        self.peak.fetch_max(now, Relaxed);
    }
}

static ACCOUNTS: [Account; 6] = [const { Account::new() }; 6];
static TOTAL: Account = Account::new();

thread_local! {
    static CURRENT: Cell<Category> = const { Cell::new(Category::Activations) };
}

/// A charge on the ledger, paid back when dropped.
#[derive(Debug)]
pub struct Charge {
    category: Category,
    bytes: usize,
}

impl Charge {
    /// Charges `bytes` to the thread's current category.
    pub fn new(bytes: usize) -> Self {
        Charge::to(CURRENT.get(), bytes)
    }

    /// Charges `bytes` to `category`.
    pub fn to(category: Category, bytes: usize) -> Self {
        ACCOUNTS[category as usize].add(bytes);
        TOTAL.add(bytes);
        Charge { category, bytes }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        ACCOUNTS[self.category as usize].now.fetch_sub(self.bytes, Relaxed);
        TOTAL.now.fetch_sub(self.bytes, Relaxed);
    }
}

/// While alive, buffers made on this thread are charged to the given category.
#[must_use = "the category changes back when the guard is dropped"]
pub struct Scope(Category);

/// Sets the category of buffers made on this thread until the guard is dropped.
pub fn scope(category: Category) -> Scope {
    Scope(CURRENT.replace(category))
}

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// Bytes by category, in the order of [`CATEGORIES`], and in total.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    /// `(now, peak)` a category, in bytes.
    pub by_category: [(usize, usize); 6],
    /// `(now, peak)` over all categories, in bytes. The peak of the sum, not the sum of the peaks.
    pub total: (usize, usize),
}

/// The ledger as it stands.
pub fn snapshot() -> Snapshot {
    let read = |a: &Account| (a.now.load(Relaxed), a.peak.load(Relaxed));
    Snapshot { by_category: std::array::from_fn(|i| read(&ACCOUNTS[i])), total: read(&TOTAL) }
}

/// Sets every peak to the present value, so that a phase can be measured by itself.
pub fn reset_peaks() {
    for a in ACCOUNTS.iter().chain(std::iter::once(&TOTAL)) {
        a.peak.store(a.now.load(Relaxed), Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn charges_are_paid_back_and_peaks_remembered() {
        let at = Category::Optimizer as usize;
        let before = snapshot().by_category[at];
        {
            let _guard = scope(Category::Optimizer);
            let _charge = Charge::new(1 << 20);
            assert_eq!(snapshot().by_category[at].0, before.0 + (1 << 20));
        }
        let after = snapshot().by_category[at];
        assert_eq!(after.0, before.0);
        assert!(after.1 >= before.0 + (1 << 20));
        assert_eq!(CURRENT.get(), Category::Activations);
    }
}
