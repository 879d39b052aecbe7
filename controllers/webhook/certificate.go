// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package webhook

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
)

// ErrNoCertificate: the Secret holds none yet. Whoever makes it has to come first;
// the API server's call fails and follows its failure policy.
var ErrNoCertificate = errors.New("the webhooks' certificate is not there yet")

// Certificate is the serving certificate as it is in a Secret now. It is read from
// the API rather than from a volume: kubelet may take more than a minute to renew
// that, in which a new installation, or a renewed authority, would not be served.
type Certificate struct {
	current atomic.Pointer[tls.Certificate]
}

// Follow keeps the certificate up to date from the cache's Secrets of that name.
// Call it before the cache starts.
func (c *Certificate) Follow(ctx context.Context, secrets cache.Cache, name string) error {
	informer, err := secrets.GetInformer(ctx, &corev1.Secret{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch the webhooks' Secret: %w", err)
	}
	log := ctrl.LoggerFrom(ctx).WithName("webhooks")
	take := func(o any) {
		secret, ok := o.(*corev1.Secret)
		if !ok || secret.Name != name {
			return
		}
		if err := c.take(secret); err != nil {
			// What was served before is better than nothing.
			log.Info("the Secret has no certificate to serve", "secret", name, "why", err.Error())
		}
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    take,
		UpdateFunc: func(_, after any) { take(after) },
	})
	if err != nil {
		return fmt.Errorf("watch the webhooks' Secret: %w", err)
	}
	return nil
}

func (c *Certificate) take(secret *corev1.Secret) error {
	certificate, key := secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
	if len(certificate) == 0 || len(key) == 0 {
		return ErrNoCertificate
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return fmt.Errorf("read the certificate: %w", err)
	}
	c.current.Store(&pair)
	return nil
}

// Get is for tls.Config.GetCertificate.
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if pair := c.current.Load(); pair != nil {
		return pair, nil
	}
	return nil, ErrNoCertificate
}
