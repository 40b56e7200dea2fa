//! unidesk
