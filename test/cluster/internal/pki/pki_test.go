// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestIssuedCertificateIsTrustedForItsUseOnly(t *testing.T) {
	ca, err := NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(Subject{Name: "system:node:n1", Groups: []string{"system:nodes"}, IPs: []string{"10.0.0.1"}, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.Cert)
	verify := func(use x509.ExtKeyUsage) error {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{use}})
		return err
	}
	if err := verify(x509.ExtKeyUsageClientAuth); err != nil {
		t.Errorf("as a client: %v", err)
	}
	if verify(x509.ExtKeyUsageServerAuth) == nil {
		t.Error("a client's certificate serves")
	}
	if leaf.Subject.CommonName != "system:node:n1" || !slices.Equal(leaf.Subject.Organization, []string{"system:nodes"}) {
		t.Errorf("subject %v", leaf.Subject)
	}
	if leaf.VerifyHostname("10.0.0.1") != nil {
		t.Error("the address is missing")
	}
	if _, err := ca.Issue(Subject{Name: "x", IPs: []string{"nonsense"}}); err == nil {
		t.Error("a bad address was accepted")
	}
}

func TestKubeconfigHoldsTheCredentials(t *testing.T) {
	out, err := Kubeconfig("godwit", "https://10.0.0.1:6443", []byte("ca"), Pair{Cert: []byte("cert"), Key: []byte("key")})
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Users []struct {
			User struct {
				Cert []byte `json:"client-certificate-data"`
				Key  []byte `json:"client-key-data"`
			} `json:"user"`
		} `json:"users"`
	}
	if err := yaml.Unmarshal(out, &config); err != nil {
		t.Fatal(err)
	}
	if len(config.Users) != 1 || string(config.Users[0].User.Cert) != "cert" || string(config.Users[0].User.Key) != "key" {
		t.Errorf("users %+v", config.Users)
	}
}
