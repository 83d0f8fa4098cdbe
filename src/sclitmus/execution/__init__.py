"""Study → plan → execute: trials in processes of their own, results in a store of hashes."""
