// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import "sigs.k8s.io/yaml"

// Kubeconfig returns a kubeconfig for the API server at url, trusting ca and
// presenting client.
func Kubeconfig(cluster, url string, ca []byte, client Pair) ([]byte, error) {
	type named map[string]any
	return yaml.Marshal(map[string]any{
		"apiVersion":      "v1",
		"kind":            "Config",
		"current-context": cluster,
		"clusters": []named{{"name": cluster, "cluster": map[string]any{
			"server": url, "certificate-authority-data": ca,
		}}},
		"users": []named{{"name": cluster, "user": map[string]any{
			"client-certificate-data": client.Cert, "client-key-data": client.Key,
		}}},
		"contexts": []named{{"name": cluster, "context": map[string]any{
			"cluster": cluster, "user": cluster,
		}}},
	})
}
