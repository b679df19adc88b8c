// Command prometheus_rules checks alerts as Prometheus itself does when it loads them, and says what they ask for.
//
// It reads a file of rules, which is also the spec of a PrometheusRule, from standard input, and writes a JSON list
// of alerts: {"alert", "selectors": [{"metric", "labels": {name: value}}], "by": [label]}. Exit code 1 with reasons on
// standard error when an expression, a template or a field is wrong.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

type selector struct {
	Metric string            `json:"metric"`
	Labels map[string]string `json:"labels"`
}

type alert struct {
	Alert     string     `json:"alert"`
	Selectors []selector `json:"selectors"`
	By        []string   `json:"by"`
}

func selectorOf(node *parser.VectorSelector) selector {
	found := selector{Metric: node.Name, Labels: map[string]string{}}
	for _, matcher := range node.LabelMatchers {
		if matcher.Name != labels.MetricName {
			found.Labels[matcher.Name] = matcher.Value
		}
	}
	return found
}

func read(rules parser.Parser, rule rulefmt.Rule) (alert, error) {
	found := alert{Alert: rule.Alert, Selectors: []selector{}, By: []string{}}
	expression, err := rules.ParseExpr(rule.Expr)
	if err != nil {
		return found, err
	}
	parser.Inspect(expression, func(node parser.Node, _ []parser.Node) error {
		switch node := node.(type) {
		case *parser.VectorSelector:
			found.Selectors = append(found.Selectors, selectorOf(node))
		case *parser.AggregateExpr:
			found.By = append(found.By, node.Grouping...)
		}
		return nil
	})
	return found, nil
}

func main() {
	text, err := io.ReadAll(os.Stdin)
	if err != nil {
		fail(err)
	}
	rules := parser.NewParser(parser.Options{})
	file, errs := rulefmt.Parse(text, false, model.UTF8Validation, rules, slog.Default())
	if len(errs) > 0 {
		fail(errs...)
	}
	alerts := []alert{}
	for _, group := range file.Groups {
		for _, rule := range group.Rules {
			found, err := read(rules, rule)
			if err != nil {
				fail(err)
			}
			alerts = append(alerts, found)
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(alerts); err != nil {
		fail(err)
	}
}

func fail(errs ...error) {
	for _, err := range errs {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(1)
}
