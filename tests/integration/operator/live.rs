//! Each command beside a relay that is at work.
