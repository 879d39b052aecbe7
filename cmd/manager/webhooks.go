// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/open-policy-agent/cert-controller/pkg/rotator"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlwebhook "sigs.k8s.io/controller-runtime/pkg/webhook"

	"godwit.dev/godwit/api/v1alpha1"
	"godwit.dev/godwit/controllers/webhook"
	"godwit.dev/godwit/internal/migration"
)

// webhookOptions are the command line's, as far as it is about webhooks.
type webhookOptions struct {
	port   int
	name   string
	rotate bool
	dir    string
	// namespace of the Service and the Secret: the manager's own.
	namespace string
	retries   migration.Retries
}

func (o *webhookOptions) bind(flags *flag.FlagSet) {
	flags.IntVar(&o.port, "webhook-port", 9443, "Port of the admission webhooks; 0 serves none.")
	flags.StringVar(&o.name, "webhook-name", "godwit-webhooks", "Name of the webhooks' Service, of the Secret with their certificate, and of their configurations.")
	flags.BoolVar(&o.rotate, "webhook-rotate-certificates", true, "Make and renew the certificate in the Secret, and tell the API server of its authority. Turn it off where cert-manager does.")
	flags.StringVar(&o.dir, "webhook-certificates-dir", "/var/run/godwit/webhooks", "Where the Secret is mounted; only the rotation looks there.")
	flags.StringVar(&o.namespace, "namespace", os.Getenv("POD_NAMESPACE"), "Namespace that the manager runs in.")
	d := migration.DefaultRetries
	flags.IntVar(&o.retries.Budget, "evacuation-attempts", d.Budget, "How many attempts to move a pod off a drained node may fail before evacuation BestEffort lets it be evicted.")
	flags.DurationVar(&o.retries.Backoff, "evacuation-backoff", d.Backoff, "How long after a failed attempt the next one begins; doubled each time.")
	flags.DurationVar(&o.retries.Cap, "evacuation-backoff-cap", d.Cap, "The longest wait between two attempts.")
}

func (o *webhookOptions) validate() error {
	switch {
	case o.port < 0 || o.port > 65535:
		return fmt.Errorf("--webhook-port %d is no port", o.port)
	case o.port == 0:
		return nil
	case o.retries.Budget < 1, o.retries.Backoff <= 0, o.retries.Cap < o.retries.Backoff:
		return fmt.Errorf("--evacuation-attempts has to be 1 at least, --evacuation-backoff positive, and --evacuation-backoff-cap as long at least")
	case o.name == "":
		return fmt.Errorf("--webhook-name is required")
	case o.namespace == "":
		return fmt.Errorf("--namespace is required with webhooks")
	}
	return nil
}

// configureWebhooks adds what webhooks need to the manager's options. What it
// returns serves the certificate.
func configureWebhooks(options *manager.Options, o *webhookOptions) *webhook.Certificate {
	if o.port == 0 {
		options.WebhookServer = ctrlwebhook.NewServer(ctrlwebhook.Options{Port: -1})
		return nil
	}
	certificate := &webhook.Certificate{}
	options.WebhookServer = ctrlwebhook.NewServer(ctrlwebhook.Options{Port: o.port, TLSOpts: []func(*tls.Config){
		func(c *tls.Config) { c.MinVersion, c.GetCertificate = tls.VersionTLS13, certificate.Get },
	}})
	// One Secret is watched, and no other.
	if options.Cache.ByObject == nil {
		options.Cache.ByObject = map[client.Object]cache.ByObject{}
	}
	options.Cache.ByObject[&corev1.Secret{}] = cache.ByObject{
		Namespaces: map[string]cache.Config{o.namespace: {FieldSelector: fields.OneTermEqualSelector("metadata.name", o.name)}},
	}
	return certificate
}

// addWebhooks serves the webhooks, and has their certificate made and renewed.
func addWebhooks(mgr manager.Manager, certificate *webhook.Certificate, o *webhookOptions, handlers webhook.Options) error {
	if certificate == nil {
		return nil
	}
	if err := certificate.Follow(context.Background(), mgr.GetCache(), o.name); err != nil {
		return err
	}
	handlers.Retries, handlers.Namespace = o.retries, o.namespace
	webhook.Setup(mgr, handlers)
	// Nobody is to be sent here before there is something to answer with.
	if err := mgr.AddReadyzCheck("webhooks", mgr.GetWebhookServer().StartedChecker()); err != nil {
		return err
	}
	err := mgr.AddReadyzCheck("cache", func(req *http.Request) error {
		ctx, cancel := context.WithTimeout(req.Context(), time.Second)
		defer cancel()
		if !mgr.GetCache().WaitForCacheSync(ctx) {
			return errors.New("the cache is not filled yet")
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !o.rotate {
		return nil
	}
	err = rotator.AddRotator(mgr, &rotator.CertRotator{
		SecretKey:      types.NamespacedName{Namespace: o.namespace, Name: o.name},
		CertDir:        o.dir,
		CAName:         o.name + "-ca",
		CAOrganization: "godwit",
		DNSName:        o.name + "." + o.namespace + ".svc",
		FieldOwner:     v1alpha1.FieldManagerController,
		// Nobody waits for it: the certificate is served as soon as it is stored.
		IsReady: make(chan struct{}),
		// Every replica: one that waits to lead has to see that the certificate
		// is there too. They agree by the Secret's resourceVersion.
		RequireLeaderElection: false,
		Webhooks: []rotator.WebhookInfo{
			{Name: o.name, Type: rotator.Validating},
			{Name: o.name, Type: rotator.Mutating},
		},
	})
	if err != nil {
		return fmt.Errorf("rotate the webhooks' certificate: %w", err)
	}
	return nil
}
