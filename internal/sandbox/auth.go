package sandbox

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// OAuthClient is a client that may fetch tokens, from POST /oauth/token with
// its credentials and from POST /sts/v1/oauth2/token with such a token.
type OAuthClient struct {
	ID         string
	Secret     string        // or SecretFile
	SecretFile string        // the file holding it; read by Start
	TTL        time.Duration // how long its tokens are good; 0 is DefaultTokenTTL
	Pool       string        // its tokens need this Confluent-Identity-Pool-Id; "" asks for none
}

// DefaultTokenTTL is the longest life of a Confluent STS token.
const DefaultTokenTTL = 15 * time.Minute

// ParseOAuthClient reads ID:FILE[,ttl=DURATION][,pool=POOL], the file holding
// the secret.
func ParseOAuthClient(s string) (OAuthClient, error) {
	parts := splitParams(s)
	id, file, ok := strings.Cut(parts[0], ":")
	if !ok || id == "" || file == "" {
		return OAuthClient{}, errors.New("want ID:FILE[,ttl=DURATION][,pool=POOL], the file holding the secret")
	}
	c := OAuthClient{ID: id, SecretFile: file}
	for _, p := range parts[1:] {
		name, value, _ := strings.Cut(p, "=")
		switch name {
		case "ttl":
			d, err := time.ParseDuration(value)
			if err != nil || d < time.Second {
				return c, fmt.Errorf("ttl=%s: want a duration of at least 1s, such as 15m", value)
			}
			c.TTL = d
		case "pool":
			if value == "" {
				return c, errors.New("pool=: want the identity pool's id, such as pool-abcd")
			}
			c.Pool = value
		default:
			return c, fmt.Errorf("%q is not known; it takes ttl= and pool=", name)
		}
	}
	return c, nil
}

func (c *OAuthClient) ttl() time.Duration {
	if c.TTL == 0 {
		return DefaultTokenTTL
	}
	return c.TTL
}

// oauthFlag is []OAuthClient as a repeatable flag.
type oauthFlag struct{ cs *[]OAuthClient }

func (v oauthFlag) String() string { return "" }
func (v oauthFlag) Type() string   { return "id:FILE" }

func (v oauthFlag) Set(s string) error {
	c, err := ParseOAuthClient(s)
	if err == nil {
		*v.cs = append(*v.cs, c)
	}
	return err
}

// keeper knows who may come in.
//
// Concurrency: safe.
type keeper struct {
	keys       map[string]string // API key to secret
	bearerFile []string          // read anew for each request
	clients    map[string]OAuthClient

	mu      sync.Mutex // guards the rest
	bearers []string
	tokens  map[string]token
	issued  int
}

// token is one that was handed out.
type token struct {
	client  string
	pool    string // the header it needs; "" for none
	expires time.Time
}

// keeper reads the secrets that the configuration names.
func (c *Config) keeper() (*keeper, error) {
	k := &keeper{keys: map[string]string{}, clients: map[string]OAuthClient{}, tokens: map[string]token{}, bearers: c.BearerTokens}
	for key, secret := range c.Credentials {
		k.keys[key] = secret
	}
	for _, a := range c.AuthFiles {
		key, file, _ := strings.Cut(a, ":")
		secret, err := readSecret(file)
		switch {
		case err != nil:
			return nil, fmt.Errorf("read the secret of key %q: %w", key, err)
		case key == "bearer":
			k.bearerFile = append(k.bearerFile, file)
		default:
			k.keys[key] = secret
		}
	}
	for _, cl := range c.OAuth {
		if cl.SecretFile != "" {
			secret, err := readSecret(cl.SecretFile)
			if err != nil {
				return nil, fmt.Errorf("read the secret of OAuth client %q: %w", cl.ID, err)
			}
			cl.Secret = secret
		}
		k.clients[cl.ID] = cl
	}
	return k, nil
}

func readSecret(file string) (string, error) {
	b, err := os.ReadFile(file)
	return strings.TrimRight(string(b), "\r\n"), err
}

// open says whether nobody is asked for anything.
func (k *keeper) open() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.keys) == 0 && len(k.bearerFile) == 0 && len(k.clients) == 0 && len(k.bearers) == 0
}

// admits says whether an Authorization header and an identity pool let a new
// request in at now.
func (k *keeper) admits(authorization, pool string, now time.Time) bool {
	scheme, rest, _ := strings.Cut(authorization, " ")
	rest = strings.TrimSpace(rest)
	switch {
	case strings.EqualFold(scheme, "Basic"):
		id, secret, ok := basicPair(rest)
		want, known := k.keys[id]
		return ok && same(secret, want) && known
	case !strings.EqualFold(scheme, "Bearer") || rest == "":
		return false
	}
	for _, file := range k.bearerFile {
		if t, err := readSecret(file); err == nil && t != "" && same(rest, t) {
			return true
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range k.bearers {
		if same(rest, t) {
			return true
		}
	}
	t, ok := k.tokens[rest]
	return ok && now.Before(t.expires) && (t.pool == "" || t.pool == pool)
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

func basicPair(encoded string) (id, secret string, ok bool) {
	pair, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", "", false
	}
	return strings.Cut(string(pair), ":")
}

// issue makes a token. Those long expired are forgotten.
func (k *keeper) issue(client, pool string, now time.Time, life time.Duration) string {
	value := rand.Text() + "." + rand.Text() // no structure that a client could lean on
	k.mu.Lock()
	defer k.mu.Unlock()
	for v, t := range k.tokens {
		if now.Sub(t.expires) > time.Hour {
			delete(k.tokens, v)
		}
	}
	k.tokens[value] = token{client, pool, now.Add(life)}
	k.issued++
	return value
}

// SetBearerTokens puts ts in place of Config.BearerTokens; tokens handed out
// and --auth bearer:FILE stay as they are. New requests are held against them,
// open streams go on.
func (s *Sandbox) SetBearerTokens(ts ...string) {
	s.keeper.mu.Lock()
	s.keeper.bearers = ts
	s.keeper.mu.Unlock()
}

// unauthorized checks credentials where any are configured, and then what a
// fault makes of them.
func (x *exchange) unauthorized() *answer {
	k, now := x.sb.keeper, x.sb.cfg.clock()
	status := 200
	if !k.open() && !k.admits(x.req.get("Authorization"), x.req.get("Confluent-Identity-Pool-Id"), now) {
		status = 401
	} else if f := x.sb.faults.Load().auth(now); f != nil {
		status = f.Code
	}
	switch status {
	case 200:
		return nil
	case 403:
		x.sb.stats.unauthorized.Add(1)
		return x.flavour.refuse(403, 40301, "Forbidden")
	}
	x.sb.stats.unauthorized.Add(1)
	challenge := `Basic realm="Kafka REST"`
	if len(k.keys) == 0 && !k.open() {
		challenge = `Bearer error="invalid_token"`
	}
	return x.flavour.refuse(401, 40101, "Unauthorized").with("WWW-Authenticate", challenge)
}

// auth returns the fault that the request that comes at now draws although its
// credentials are right.
func (s *faultSet) auth(now time.Time) *activeFault {
	for _, f := range s.all {
		if f.Kind != FaultAuth {
			continue
		}
		n, age := f.seen.Add(1), now.Sub(s.since)
		if n <= int64(f.After) || !f.during(age) || f.Share > 0 && !f.draw() {
			continue
		}
		if f.claim() {
			return f
		}
	}
	return nil
}

// quotaHeader is what Redpanda Cloud's token endpoint says with every answer.
// The sandbox has no quota of its own: what is left does not fall below 1.
func (k *keeper) quotaHeader() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return "b=per_day;q=100;r=" + strconv.Itoa(max(1, 100-k.issued)) + ";t=43200"
}
