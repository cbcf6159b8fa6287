//! Puts the parts together for each enrolled workload.
