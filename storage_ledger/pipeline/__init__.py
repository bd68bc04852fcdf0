"""The way of one event: receive, place, replicate, remove and notify; and reconcile, for what never arrived."""
