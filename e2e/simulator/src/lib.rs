//! A fleet of simulated model servers in one process.
