"""The fix in somebody else's checkout of CODA: put in, brought up to date, taken out."""
