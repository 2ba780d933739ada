"""Training of the aggregation networks on a frozen backbone (extra ``lab``)."""
