"""From the types of the API to what a cluster and a reader need: CustomResourceDefinitions and docs/api.md. Pure."""
