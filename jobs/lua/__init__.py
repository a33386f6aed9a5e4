"""The store's transitions as Redis scripts: one file each, all read after prelude.lua."""
