"""One file per way of storing labelled images; each turns its source into a `Listing`."""
