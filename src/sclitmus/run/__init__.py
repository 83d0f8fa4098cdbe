"""Study → plan → execute: trials in processes of their own, results in a content-addressed store."""
