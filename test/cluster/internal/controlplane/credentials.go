// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"fmt"

	"godwit.dev/godwit/test/cluster/internal/pki"
	"godwit.dev/godwit/test/cluster/internal/topology"
)

// Credentials are the files of a cluster's PKI directory by name, and its
// authority for the nodes' certificates.
type Credentials struct {
	// CA signs what clients and servers present.
	CA *pki.CA
	// Files are the contents by file name.
	Files map[string][]byte
	// Admin is the administrator's kubeconfig.
	Admin []byte
}

// NewCredentials makes all certificates, keys and kubeconfigs of a control
// plane.
func NewCredentials(cluster string) (*Credentials, error) {
	ca, err := pki.NewCA("godwit-cluster")
	if err != nil {
		return nil, err
	}
	frontProxyCA, err := pki.NewCA("godwit-front-proxy")
	if err != nil {
		return nil, err
	}
	tokens, err := pki.NewKeyPair()
	if err != nil {
		return nil, err
	}
	c := &Credentials{CA: ca, Files: map[string][]byte{
		"ca.crt":              ca.Cert,
		"ca.key":              ca.Key,
		"front-proxy-ca.crt":  frontProxyCA.Cert,
		"service-account.pub": tokens.Cert,
		"service-account.key": tokens.Key,
	}}
	for _, s := range []struct {
		ca      *pki.CA
		file    string
		subject pki.Subject
	}{
		{ca, "kube-apiserver", pki.Subject{
			Name: "kube-apiserver", Server: true,
			DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + topology.ClusterDomain},
			IPs:      []string{"127.0.0.1", topology.ControlPlaneIP, topology.APIServiceIP},
		}},
		{ca, "kube-apiserver-kubelet-client", pki.Subject{Name: "kube-apiserver-kubelet-client", Client: true}},
		{frontProxyCA, "front-proxy-client", pki.Subject{Name: "front-proxy-client", Client: true}},
	} {
		pair, err := s.ca.Issue(s.subject)
		if err != nil {
			return nil, err
		}
		c.Files[s.file+".crt"], c.Files[s.file+".key"] = pair.Cert, pair.Key
	}
	for file, subject := range map[string]pki.Subject{
		"kube-controller-manager.conf": {Name: "system:kube-controller-manager"},
		"kube-scheduler.conf":          {Name: "system:kube-scheduler"},
		"kube-proxy.conf":              {Name: "system:kube-proxy"},
		"coredns.conf":                 {Name: "system:coredns"},
	} {
		if c.Files[file], err = c.Kubeconfig(cluster, subject); err != nil {
			return nil, err
		}
	}
	c.Admin, err = c.Kubeconfig(cluster, pki.Subject{Name: "godwit-admin", Groups: []string{"system:masters"}})
	return c, err
}

// Kubeconfig makes a kubeconfig for the client s.
func (c *Credentials) Kubeconfig(cluster string, s pki.Subject) ([]byte, error) {
	s.Client = true
	pair, err := c.CA.Issue(s)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", s.Name, err)
	}
	return pki.Kubeconfig(cluster, topology.APIServerURL, c.CA.Cert, pair)
}
