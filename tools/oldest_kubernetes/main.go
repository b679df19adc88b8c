// Command oldest_kubernetes says whether the oldest Kubernetes that we support would take CustomResourceDefinitions.
//
// It is the validation of that release's own API server, with the cost limits of CEL rules, which differ between
// releases, and without the API server. Usage: oldest_kubernetes FILE ... ; exit code 1 and reasons if it would not.
package main

import (
	"context"
	"fmt"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"sigs.k8s.io/yaml"
)

func check(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var given v1.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(text, &given); err != nil {
		return err
	}
	v1.SetDefaults_CustomResourceDefinition(&given)
	v1.SetDefaults_CustomResourceDefinitionSpec(&given.Spec)
	var definition apiextensions.CustomResourceDefinition
	if err := v1.Convert_v1_CustomResourceDefinition_To_apiextensions_CustomResourceDefinition(&given, &definition, nil); err != nil {
		return err
	}
	for _, version := range given.Spec.Versions {
		definition.Status.StoredVersions = append(definition.Status.StoredVersions, version.Name)
	}
	return validation.ValidateCustomResourceDefinition(context.Background(), &definition).ToAggregate()
}

func main() {
	failed := false
	for _, path := range os.Args[1:] {
		if err := check(path); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", path, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}
