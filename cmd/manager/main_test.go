// Copyright The Godwit Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"flag"
	"strings"
	"testing"
)

func TestCommandLine(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		says string
	}{
		"as it is deployed": {[]string{"--leader-elect", "--metrics-bind-address=:8080", "--health-probe-bind-address=:8081", "--gate-image=godwit:v1", "--gate-image-pull-policy=Never", "--log-level=debug", "--webhook-name=x-webhooks", "--namespace=x", "--webhook-rotate-certificates=false"}, ""},
		"the least":         {[]string{"--gate-image=godwit:v1", "--webhook-port=0"}, ""},
		"no gate":           {nil, "--gate-image is required"},
		"odd pull policy":   {[]string{"--gate-image=godwit:v1", "--gate-image-pull-policy=Sometimes"}, "Sometimes"},
		"nobody works":      {[]string{"--gate-image=godwit:v1", "--max-concurrent-reconciles=0"}, "at least 1"},
		"no namespace":      {[]string{"--gate-image=godwit:v1", "--namespace="}, "--namespace is required"},
		"odd port":          {[]string{"--gate-image=godwit:v1", "--namespace=x", "--webhook-port=99999"}, "99999"},
		"annotations":       {[]string{"--gate-image=godwit:v1", "--webhook-port=0", "--address-annotations=example.com/address,example.com/other"}, ""},
		"odd annotation":    {[]string{"--gate-image=godwit:v1", "--address-annotations=example.com/address,a b/c/d"}, "--address-annotations"},
		"odd log level":     {[]string{"--gate-image=godwit:v1", "--namespace=x", "--log-level=loud"}, "--log-level"},
	} {
		t.Run(name, func(t *testing.T) {
			var o options
			flags := flag.NewFlagSet("manager", flag.ContinueOnError)
			o.bind(flags)
			if err := flags.Parse(tc.args); err != nil {
				t.Fatal(err)
			}
			err := o.validate()
			if err == nil {
				err = setLogger(o.logLevel)
			}
			switch {
			case tc.says == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tc.says != "" && (err == nil || !strings.Contains(err.Error(), tc.says)):
				t.Errorf("err = %v, want it to say %q", err, tc.says)
			}
		})
	}
}
