// Judge renders templates with Go's own text/template, in the ways in which Ollama's templates are used. It reads cases
// from standard input and writes what Go makes of them:
//
//	go run . < cases.json > results.json
//
// A case has a template and either "data", which the template is given as it is; "prompt" and "suffix"; or "messages",
// "tools" and "think", which become the structures that Ollama's templates are given.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"text/template"
	"text/template/parse"
	"time"
)

type Case struct {
	Template string          `json:"template"`
	Data     map[string]any  `json:"data"`
	Messages []Said          `json:"messages"`
	Tools    []Tool          `json:"tools"`
	Think    any             `json:"think"`
	Prompt   string          `json:"prompt"`
	Suffix   string          `json:"suffix"`
}

type Result struct {
	Text  string `json:"text"`
	Error string `json:"error,omitempty"`
}

// Said is a message on the wire.
type Said struct {
	Role       string `json:"role"`
	Content    string `json:"content"`
	Thinking   string `json:"thinking"`
	ToolName   string `json:"tool_name"`
	ToolCallID string `json:"tool_call_id"`
	ToolCalls  []struct {
		ID       string `json:"id"`
		Function struct {
			Index     int            `json:"index"`
			Name      string         `json:"name"`
			Arguments map[string]any `json:"arguments"`
		} `json:"function"`
	} `json:"tool_calls"`
}

type Types []string

func (t *Types) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*t = Types{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(t))
}

func (t Types) MarshalJSON() ([]byte, error) {
	if len(t) == 1 {
		return json.Marshal(t[0])
	}
	return json.Marshal([]string(t))
}

func (t Types) String() string {
	switch len(t) {
	case 0:
		return ""
	case 1:
		return t[0]
	}
	return fmt.Sprint([]string(t))
}

// Ordered keeps the order in which the properties came.
type Ordered struct {
	names []string
	by    map[string]Property
}

func (o *Ordered) UnmarshalJSON(data []byte) error {
	if err := json.Unmarshal(data, &o.by); err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.Token()
	for decoder.More() {
		name, err := decoder.Token()
		if err != nil {
			return err
		}
		o.names = append(o.names, name.(string))
		var skipped json.RawMessage
		if err := decoder.Decode(&skipped); err != nil {
			return err
		}
	}
	return nil
}

func (o Ordered) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	for i, name := range o.names {
		if i > 0 {
			out.WriteByte(',')
		}
		key, _ := json.Marshal(name)
		value, err := json.Marshal(o.by[name])
		if err != nil {
			return nil, err
		}
		out.Write(key)
		out.WriteByte(':')
		out.Write(value)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

func (o *Ordered) Len() int {
	if o == nil {
		return 0
	}
	return len(o.names)
}

func (o *Ordered) ToMap() map[string]Property {
	if o == nil {
		return nil
	}
	return o.by
}

type Property struct {
	AnyOf       []Property `json:"anyOf,omitempty"`
	Type        Types      `json:"type,omitempty"`
	Items       any        `json:"items,omitempty"`
	Description string     `json:"description,omitempty"`
	Enum        []any      `json:"enum,omitempty"`
	Properties  *Ordered   `json:"properties,omitempty"`
	Required    []string   `json:"required,omitempty"`
}

var typeScript = map[string]string{
	"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "array": "any[]",
	"object": "Record<string, any>", "null": "null",
}

func (p Property) ToTypeScriptType() string {
	var types []string
	for _, one := range p.AnyOf {
		types = append(types, one.ToTypeScriptType())
	}
	if len(types) == 0 {
		for _, name := range p.Type {
			word, ok := typeScript[name]
			if !ok {
				word = "any"
			}
			types = append(types, word)
		}
	}
	if len(types) == 0 {
		return "any"
	}
	return strings.Join(types, " | ")
}

type Properties map[string]Property

func (p Properties) String() string { return show(p, p == nil) }

type Args map[string]any

func (a Args) String() string { return show(a, a == nil) }

func show(v any, isNil bool) string {
	if isNil {
		return "{}"
	}
	text, _ := json.Marshal(v)
	return string(text)
}

type Parameters struct {
	Type       string     `json:"type"`
	Defs       any        `json:"$defs,omitempty"`
	Items      any        `json:"items,omitempty"`
	Required   []string   `json:"required,omitempty"`
	Properties Properties `json:"properties"`
}

type Function struct {
	Name        string     `json:"name"`
	Description string     `json:"description"`
	Parameters  Parameters `json:"parameters"`
}

type Tool struct {
	Type     string   `json:"type"`
	Items    any      `json:"items,omitempty"`
	Function Function `json:"function"`
}

func (t Tool) String() string {
	text, _ := json.Marshal(t)
	return string(text)
}

type Tools []Tool

func (t Tools) String() string {
	text, _ := json.Marshal(t)
	return string(text)
}

type Called struct {
	Index     int
	Name      string
	Arguments Args
}

type Call struct {
	ID       string
	Function Called
}

type Message struct {
	Role       string
	Content    string
	Thinking   string
	Images     [][]byte
	ToolCalls  []Call
	ToolName   string
	ToolCallID string
}

// The day on which the recorded results were made.
var day = time.Date(2025, 3, 1, 12, 0, 0, 0, time.UTC)

var funcs = template.FuncMap{
	"json": func(v any) string {
		text, _ := json.Marshal(v)
		return string(text)
	},
	"currentDate":   func(...string) string { return day.Format("2006-01-02") },
	"yesterdayDate": func(...string) string { return day.AddDate(0, 0, -1).Format("2006-01-02") },
	"toTypeScriptType": func(v any) string {
		switch p := v.(type) {
		case Property:
			return p.ToTypeScriptType()
		case *Property:
			return p.ToTypeScriptType()
		}
		return "any"
	},
}

// names collects the names of fields and variables in a list of nodes, in lower case.
func names(node parse.Node, into map[string]bool) {
	add := func(idents []string) {
		for _, ident := range idents {
			into[strings.ToLower(ident)] = true
		}
	}
	branch := func(b *parse.BranchNode) {
		names(b.Pipe, into)
		names(b.List, into)
		if b.ElseList != nil {
			names(b.ElseList, into)
		}
	}
	switch n := node.(type) {
	case *parse.ListNode:
		for _, item := range n.Nodes {
			names(item, into)
		}
	case *parse.ActionNode:
		names(n.Pipe, into)
	case *parse.TemplateNode:
		if n.Pipe != nil {
			names(n.Pipe, into)
		}
	case *parse.IfNode:
		branch(&n.BranchNode)
	case *parse.WithNode:
		branch(&n.BranchNode)
	case *parse.RangeNode:
		branch(&n.BranchNode)
	case *parse.PipeNode:
		for _, command := range n.Cmds {
			for _, arg := range command.Args {
				names(arg, into)
			}
		}
	case *parse.FieldNode:
		add(n.Ident)
	case *parse.VariableNode:
		add(n.Ident)
	}
}

// cut removes what follows the first .Response.
func cut(list *parse.ListNode, done *bool) {
	if list == nil {
		return
	}
	var kept []parse.Node
	for _, node := range list.Nodes {
		if *done {
			break
		}
		switch n := node.(type) {
		case *parse.IfNode:
			cut(n.List, done)
			cut(n.ElseList, done)
		case *parse.WithNode:
			cut(n.List, done)
			cut(n.ElseList, done)
		case *parse.RangeNode:
			cut(n.List, done)
			cut(n.ElseList, done)
		case *parse.ActionNode:
			if !cutPipe(n.Pipe, done) {
				continue
			}
		}
		kept = append(kept, node)
	}
	list.Nodes = kept
}

func cutPipe(pipe *parse.PipeNode, done *bool) bool {
	var cmds []*parse.CommandNode
	for _, command := range pipe.Cmds {
		var args []parse.Node
		for _, arg := range command.Args {
			if *done {
				break
			}
			switch n := arg.(type) {
			case *parse.FieldNode:
				for _, ident := range n.Ident {
					*done = *done || ident == "Response"
				}
			case *parse.PipeNode:
				if !cutPipe(n, done) {
					continue
				}
			}
			args = append(args, arg)
		}
		if len(args) == 0 {
			return false
		}
		command.Args = args
		cmds = append(cmds, command)
	}
	pipe.Cmds = cmds
	return len(cmds) > 0
}

func render(c Case) (text string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	tmpl, err := template.New("").Option("missingkey=zero").Funcs(funcs).Parse(c.Template)
	if err != nil {
		return "", fmt.Errorf("parse: %w", err)
	}
	var out bytes.Buffer
	if c.Data != nil {
		err = tmpl.Execute(&out, c.Data)
		return out.String(), err
	}
	found := map[string]bool{}
	for _, t := range tmpl.Templates() {
		names(t.Root, found)
	}
	if !found["messages"] && !found["response"] {
		tmpl = template.Must(template.New("").Option("missingkey=zero").Funcs(funcs).Parse(c.Template + "{{ .Response }}"))
	}
	think, level := false, ""
	switch t := c.Think.(type) {
	case bool:
		think = t
		if t {
			level = "medium"
		}
	case string:
		think, level = true, t
	}
	values := func(more map[string]any) map[string]any {
		more["Think"], more["ThinkLevel"], more["IsThinkSet"] = think, level, c.Think != nil
		return more
	}
	if c.Prompt != "" && c.Suffix != "" {
		err = tmpl.Execute(&out, values(map[string]any{"Prompt": c.Prompt, "Suffix": c.Suffix, "Response": ""}))
		return out.String(), err
	}
	var system []string
	var messages []*Message
	for _, said := range c.Messages {
		if said.Role == "system" {
			system = append(system, said.Content)
		}
		if n := len(messages); n > 0 && messages[n-1].Role == said.Role && said.Role != "tool" {
			messages[n-1].Content += "\n\n" + said.Content
			continue
		}
		message := &Message{
			Role: said.Role, Content: said.Content, Thinking: said.Thinking, ToolName: said.ToolName,
			ToolCallID: said.ToolCallID,
		}
		for _, call := range said.ToolCalls {
			message.ToolCalls = append(message.ToolCalls, Call{
				ID:       call.ID,
				Function: Called{Index: call.Function.Index, Name: call.Function.Name, Arguments: call.Function.Arguments},
			})
		}
		messages = append(messages, message)
	}
	if found["messages"] {
		err = tmpl.Execute(&out, values(map[string]any{
			"System": strings.Join(system, "\n\n"), "Messages": messages, "Tools": Tools(c.Tools), "Response": "",
		}))
		return out.String(), err
	}
	var sys, prompt, response string
	execute := func() error {
		return tmpl.Execute(&out, values(map[string]any{"System": sys, "Prompt": prompt, "Response": response}))
	}
	for _, m := range messages {
		if m.Role == "system" && prompt+response != "" || m.Role == "user" && response != "" {
			if err := execute(); err != nil {
				return out.String(), err
			}
			sys, prompt, response = "", "", ""
		}
		switch m.Role {
		case "system":
			sys = m.Content
		case "user":
			prompt = m.Content
		case "assistant":
			response = m.Content
		}
	}
	done := false
	cut(tmpl.Root, &done)
	// What is left is a template of its own there, without the option.
	tmpl.Option("missingkey=default")
	err = execute()
	return out.String(), err
}

func main() {
	var cases []Case
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	results := make([]Result, len(cases))
	for i, c := range cases {
		text, err := render(c)
		results[i].Text = text
		if err != nil {
			results[i] = Result{Error: err.Error()}
		}
	}
	encoder := json.NewEncoder(os.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", " ")
	encoder.Encode(map[string]any{"go": runtime.Version(), "results": results})
}
