//! Rigs for the tests on a real kernel.
