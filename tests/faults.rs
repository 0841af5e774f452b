//! Faults of the machine: clocks that jump, logs that nobody reads, a process that is killed. Links and
//! disks, which take namespaces of their own, are `tests/faults/links.py` (`./dev faults`).

mod clock;
mod kill;
mod log;
