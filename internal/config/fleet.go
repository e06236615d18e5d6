package config

import (
	"net/url"
	"strings"
)

// sameClusters warns of a cluster that is there twice: each entry has its own
// streams and budgets, and both together would use its limits twice.
func (l *loader) sameClusters() {
	for i := range l.cfg.Clusters {
		a := &l.cfg.Clusters[i]
		if p := a.Limits.Limit(); p.Connections == 0 && p.Records == 0 && p.Bytes == 0 || a.Limits.Fleet.Agents > 1 {
			continue
		}
		for j := range i {
			b := &l.cfg.Clusters[j]
			if b.Limits.Fleet.Agents > 1 || origin(a.RESTEndpoint) == "" || origin(a.RESTEndpoint) != origin(b.RESTEndpoint) ||
				a.ClusterID != "" && b.ClusterID != "" && a.ClusterID != b.ClusterID {
				continue
			}
			l.warn("clusters."+a.Name, "is the same cluster as %s: each would use all of its limits, twice what it takes. Let the routes name one of them, or give both limits.fleet: {agents: 2}", b.Name)
		}
	}
}

// origin is what makes two endpoints the same: scheme, host and port. "" for
// what is no address.
func origin(endpoint string) string {
	u, err := url.Parse(endpoint)
	if err != nil || u.Hostname() == "" {
		return ""
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(strings.TrimSuffix(u.Hostname(), ".")) + ":" + port
}
