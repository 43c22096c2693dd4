"""What each change is worth on the real images of BBBC021, out of fold, by well."""
