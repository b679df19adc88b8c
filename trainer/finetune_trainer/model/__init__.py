"""The model at hand: fetched, loaded, adapted, proved to keep packed documents apart, and exported."""
