//! Many seeds of the whole system; see `sim`'s own documentation for what a seed decides and what must hold.

mod seeds;
